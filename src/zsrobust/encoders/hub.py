"""A checkpoint from the Hugging Face hub, or from its cache on this machine when there is no network.

``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_OFFLINE`` and ``HF_TOKEN`` mean what they mean to huggingface_hub, which
does the transport and resumes a file with a Range request when the other side closed early. What is added here:
connections that were reset (which it does not retry) are tried again, only the files of one weight format are
fetched, and every failure is one line.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from zsrobust.encoders.preprocessing import read_json
from zsrobust.errors import ModelError

ATTEMPTS = 4
BACK_OFF_SECONDS = 1.0  # before the second attempt; doubles after each

_SMALL_FILES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "zsrobust.json", "prompt.safetensors",
    "README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "spiece.model", "tokenizer.model",
)  # fmt: skip

OPENCLIP_CONFIG = "open_clip_config.json"
OPENCLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""As src/open_clip/constants.py of mlfoundations/open_clip names them."""

T = TypeVar("T")


def fetch(repo: str, *, revision: str | None = None) -> tuple[Path, str]:
    """Download what an encoder needs of ``repo`` (files already in the cache are not fetched again).

    Args:
        repo: ``owner/name``.
        revision: Branch, tag or commit; the default branch if None.

    Returns:
        The folder, and the commit it is a snapshot of.

    Raises:
        ModelError: Not found, gated, no such revision, no network and not in the cache, or a download that
            kept breaking.
    """
    import httpx2
    from huggingface_hub import errors

    try:
        with _one_line_log():
            folder = _fetch(repo, revision)
    except errors.GatedRepoError as error:
        raise ModelError(
            f"'{repo}' is gated: accept its terms there and log in with 'hf auth login' (or HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"'{repo}' was not found on {_endpoint()}: check the spelling; private and gated ones need "
            "'hf auth login' (or HF_TOKEN)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"'{repo}' has no revision '{revision}'") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, httpx2.TransportError) as error:
        raise ModelError(_no_network(repo, error)) from error
    except (errors.HFValidationError, errors.HfHubHTTPError, OSError) as error:
        raise ModelError(f"'{repo}' could not be fetched from {_endpoint()}: {_first_line(error)}") from error
    return folder, folder.name


def _fetch(repo: str, revision: str | None) -> Path:
    import httpx2
    from huggingface_hub import HfApi, errors

    from zsrobust.encoders.weights import wanted_files

    try:
        info = _retried(lambda: HfApi().model_info(repo, revision=revision), f"asking for '{repo}'")
    except (errors.OfflineModeIsEnabled, httpx2.TransportError) as error:
        return _from_cache(repo, revision, error)
    except errors.HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return _from_cache(repo, revision, error)
    names = [entry.rfilename for entry in info.siblings or []]
    if wanted := _openclip_files(repo, names, info.sha):
        return _downloaded(repo, revision, wanted)
    if "config.json" not in names:
        raise ModelError(f"'{repo}' has no config.json: not a transformers checkpoint ({', '.join(names[:5])})")
    wanted = [name for name in _SMALL_FILES if name in names] + wanted_files(names, where=f"'{repo}'")
    return _downloaded(repo, revision, wanted)


def _downloaded(repo: str, revision: str | None, wanted: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    download = _retried(
        lambda: snapshot_download(repo, revision=revision, allow_patterns=wanted, tqdm_class=_bar_class()),
        f"downloading '{repo}'",
    )
    return Path(download)


def _openclip_files(repo: str, names: list[str], revision: str | None) -> list[str]:
    """What to fetch of a repository in open_clip's layout; nothing where it is in transformers' as well."""
    from huggingface_hub import hf_hub_download

    weights = [name for name in OPENCLIP_WEIGHTS if name in names][:1]
    if OPENCLIP_CONFIG not in names or not weights:
        return []
    if "config.json" in names:
        # timm's mirrors have a config.json of timm, and a model.safetensors that is a visual tower alone.
        path = _retried(lambda: hf_hub_download(repo, "config.json", revision=revision), f"downloading '{repo}'")
        if read_json(Path(path)).get("model_type") is not None:
            return []
    return [OPENCLIP_CONFIG, *weights, *(name for name in _SMALL_FILES if name in names)]


TOKENIZERS = ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch16", "openai/clip-vit-large-patch14")
"""All with the one vocabulary of CLIP."""


def cached_tokenizer() -> Path | None:
    """A folder in the local cache with CLIP's tokenizer, if one of :data:`TOKENIZERS` was ever fetched; no network."""
    from huggingface_hub import try_to_load_from_cache

    for repo in TOKENIZERS:
        found = try_to_load_from_cache(repo, "tokenizer.json")
        if isinstance(found, str):
            return Path(found).parent
    return None


def _from_cache(repo: str, revision: str | None, error: Exception) -> Path:
    """The snapshot of an earlier download; ``error`` (why the hub cannot be asked) if there is none."""
    from huggingface_hub import errors, snapshot_download

    for config, weights in (
        ("config.json", ["model*.safetensors", "model.safetensors.index.json"]),
        ("config.json", ["pytorch_model*.bin*"]),
        (OPENCLIP_CONFIG, [OPENCLIP_WEIGHTS[0]]),
        (OPENCLIP_CONFIG, [OPENCLIP_WEIGHTS[1]]),
    ):
        try:
            found = snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[config, *weights])
        except errors.LocalEntryNotFoundError:
            continue
        if any(Path(found).glob(weights[0])):
            if not isinstance(error, errors.OfflineModeIsEnabled):
                commit = Path(found).name[:12]
                _notice(f"no connection to {_endpoint()}; using the cached copy of '{repo}' ({commit})")
            return Path(found)
    raise error


def _retried(action: Callable[[], T], what: str) -> T:
    """``action()``, again after a broken connection, at most :data:`ATTEMPTS` times in all.

    A host that cannot be reached at all is not retried: that is no network, and waiting would only hide it.
    """
    import httpx2

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except httpx2.ConnectError:
            raise
        except (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.TimeoutException) as error:
            if attempt == ATTEMPTS:
                raise
            wait = BACK_OFF_SECONDS * 2 ** (attempt - 1)
            _notice(f"{what}: {_first_line(error)}; trying again in {wait:g} s ({attempt + 1} of {ATTEMPTS})")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _no_network(repo: str, error: Exception) -> str:
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{_endpoint()} cannot be reached"
    broke = "" if constants.HF_HUB_OFFLINE else f" ({_first_line(error)})"
    return (
        f"'{repo}' is not in the local cache and {why}{broke}; pass a local folder with the checkpoint, set "
        f"HF_ENDPOINT to a mirror, or unset HF_HUB_OFFLINE once to download it"
    )


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:159] + "…"


def _notice(text: str) -> None:
    print(f"zsrobust: {text}", file=sys.stderr)


def _bar_class() -> type[Any]:
    """A bar on a terminal and none in a log file (the hub's own counter of files is drawn in both)."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg,misc,unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": not sys.stderr.isatty()})

    return Bar


@contextmanager
def _one_line_log() -> Iterator[None]:
    """huggingface_hub reports its own resumes over two lines; fold them into one."""
    log = logging.getLogger("huggingface_hub.file_download")

    def fold(record: logging.LogRecord) -> bool:
        record.msg, record.args = " ".join(record.getMessage().split()), ()
        return True

    log.addFilter(fold)
    try:
        yield
    finally:
        log.removeFilter(fold)
