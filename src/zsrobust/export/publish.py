"""An export's folder → a model repository of the Hugging Face hub, through huggingface_hub.

``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` mean what they mean to huggingface_hub.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from zsrobust.encoders.hub import _endpoint, _first_line
from zsrobust.errors import ConfigError, ModelError
from zsrobust.export.folder import EXPORT

Visibility = Literal["private", "public"]

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check(repo: str) -> None:
    """Everything that can be known before an export: the name, a token, and that the network may be used.

    Raises:
        ConfigError: ``repo`` is not ``owner/name``.
        ModelError: No token, or ``HF_HUB_OFFLINE`` is set.
    """
    from huggingface_hub import constants, get_token

    if not _ID.fullmatch(repo):
        raise ConfigError(f"'{repo}' is not the name of a repository: OWNER/NAME, of letters, digits, '.', '_' and '-'")
    if constants.HF_HUB_OFFLINE:
        raise ModelError(f"'{repo}' cannot be pushed: HF_HUB_OFFLINE is set")
    if get_token() is None:
        raise ModelError(f"'{repo}' cannot be pushed: no token; log in with 'hf auth login', or set HF_TOKEN")


def publish(folder: str | Path, repo: str, *, revision: str | None = None, visibility: Visibility = "private") -> str:
    """Push an export.

    Files of the same name are replaced, and ``.eval_results`` is emptied first: what an earlier push measured was
    another model's. Other files that are in the repository stay.

    Args:
        folder: What :func:`zsrobust.export.export` wrote.
        repo: ``owner/name``; made if it does not exist.
        revision: Branch to commit to, made from the default branch if it does not exist; None: the default branch.
        visibility: Of a repository that is made now; one that exists stays as it is.

    Returns:
        Address of the commit.

    Raises:
        ConfigError: ``repo`` is no name of a repository, or ``folder`` no export.
        ModelError: No token, no permission, no network, or the hub refused: one line.
    """
    from huggingface_hub import HfApi

    place = Path(folder)
    if not (place / EXPORT).is_file():
        raise ConfigError(f"'{place}' is no export (no {EXPORT}): 'zsrobust export' writes one")
    check(repo)
    with _one_line(repo), _quiet():
        api = HfApi()
        api.create_repo(repo, private=visibility == "private", exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, folder_path=place, revision=revision, commit_message=f"zsrobust export of {place.name}",
            delete_patterns=[".eval_results/*"],
        )  # fmt: skip
    return str(done.commit_url)


@contextmanager
def _one_line(repo: str) -> Iterator[None]:
    """huggingface_hub's errors as one line each."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise ModelError(f"'{repo}' cannot be pushed: HF_HUB_OFFLINE is set") from error
    except httpx2.TransportError as error:
        raise ModelError(f"'{repo}' was not pushed: {_endpoint()} cannot be reached ({_first_line(error)})") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"'{repo}' was not pushed: it has no such revision") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        why = {
            401: "the token was refused; log in again with 'hf auth login', or set HF_TOKEN to one that can write",
            403: "the token may not write there; it needs write permission for that owner",
            404: "there is no such repository, or the token may not see it",
        }.get(status, _first_line(error))
        raise ModelError(f"'{repo}' was not pushed to {_endpoint()} ({status}): {why}") from error
    except (RuntimeError, ValueError, OSError) as error:  # RuntimeError: a large file, with the reason as its cause
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise ModelError(f"'{repo}' was not pushed to {_endpoint()}: {_first_line(cause)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Progress bars on a terminal and none in a log file; and no remark of huggingface_hub's on its own code."""
    from huggingface_hub import utils as untyped

    utils: Any = untyped
    off = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if off:
        utils.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Use 'content=<\.\.\.>'", DeprecationWarning)
            yield
    finally:
        if off:
            utils.enable_progress_bars()
