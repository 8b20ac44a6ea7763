"""A folder that transformers and this package open: weights, tokenizer, card and zsrobust.json.

A prompted model has prompt.safetensors beside them, which transformers knows nothing of: the card says so.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsrobust.encoders import golden
from zsrobust.encoders.preprocessing import read_json
from zsrobust.errors import ConfigError, ModelError
from zsrobust.records import UNKNOWN

if TYPE_CHECKING:
    from torch import Tensor

    from zsrobust.encoders.base import Encoder
    from zsrobust.encoders.preprocessing import Preprocessing

STORY = "zsrobust.json"
FORMAT = "zsrobust.model/1"
PROMPT = "prompt"
"""In zsrobust.json: what the prompt is."""
PROMPT_FILE = "prompt.safetensors"
GOLDEN = golden.KEY


def story(folder: Path, origin: Mapping[str, object]) -> dict[str, Any]:
    """The provenance of the checkpoint in ``folder``.

    Args:
        folder: What it says about itself in zsrobust.json stays; its source then is the base model of
            ``origin``.
        origin: ``source`` and ``revision`` where the folder came from somewhere (the hub); empty for a local
            folder.
    """
    stored = _read(folder)
    stored.pop(GOLDEN, None)
    told: dict[str, Any] = {"source": folder.resolve().name, "revision": None, "adapted_on": [], **stored}
    if stored.get("adapted_on") and origin:
        told.setdefault("base_model", stored.get("source"))
    if "license" not in told and (known := _license(folder)):
        told["license"] = known
    return {**told, **origin}


def _license(folder: Path) -> str | None:
    """The licence in the front matter of the folder's model card, if it has one."""
    import yaml

    path = folder / "README.md"
    if not path.is_file():
        return None
    parts = path.read_text(encoding="utf-8", errors="replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    found = head.get("license") if isinstance(head, dict) else None
    return found if isinstance(found, str) else None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / STORY
    if not path.is_file():
        return {}
    found = read_json(path)
    if found.pop("format", None) != FORMAT:
        raise ModelError(f"{folder.name}/{STORY} is not in the format {FORMAT}")
    return found


def check_golden(encoder: Encoder, folder: Path) -> None:
    """Compares an encoder that was opened from ``folder`` with the golden vector there, if there is one.

    Raises:
        ModelError: it gives other numbers than the model that was saved.
    """
    stored = _read(folder)
    if GOLDEN in stored:
        golden.check(encoder, stored[GOLDEN], f"{folder.name}/{STORY}")


def holds_prompt(folder: Path) -> bool:
    """Whether the model in ``folder`` is a prompted one.

    Raises:
        ModelError: Only one of the prompt and its description is there.
    """
    described, there = PROMPT in _read(folder), (folder / PROMPT_FILE).is_file()
    if described and not there:
        raise ModelError(f"{folder.name}/{STORY} describes a prompt, but {PROMPT_FILE} is missing")
    if there and not described:
        raise ModelError(f"{folder.name} has {PROMPT_FILE}, but no description of it in {STORY}")
    return described


def write(
    folder: Path,
    model: Any,
    tokenizer: Any,
    preprocessing: Preprocessing,
    provenance: Mapping[str, object],
    prompt: Mapping[str, Tensor] | None = None,
    *,
    vector: Mapping[str, object] | None = None,
) -> Path:
    """Write everything beside ``folder`` and put it in place with one rename.

    Args:
        folder: Where to.
        model: transformers' model.
        tokenizer: Its tokenizer.
        preprocessing: Its preprocessing.
        provenance: What zsrobust.json says; of a prompted model also what the prompt is, under :data:`PROMPT`.
        prompt: The prompt's tensors by name, on the CPU.
        vector: What :func:`zsrobust.encoders.golden.golden` gives for the model, to be compared when it is opened.

    Raises:
        ConfigError: ``folder`` exists and is not one of ours, or ``provenance`` is not JSON-able or speaks of a prompt
            that is not there.
        ModelError: It cannot be written.
    """
    from safetensors.torch import save

    _check_target(folder)
    if (PROMPT in provenance) != (prompt is not None):
        raise ConfigError(f"'{PROMPT}' cannot be a key of the provenance: it describes a prompted model's prompt")
    told = content(provenance, vector)
    try:
        text = json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"provenance is not JSON-able: {error}") from error
    fresh = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        fresh.mkdir(parents=True)
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        (fresh / "preprocessor_config.json").write_text(json.dumps(dict(preprocessing.source), indent=2) + "\n")
        if prompt is not None:
            (fresh / PROMPT_FILE).write_bytes(save(dict(prompt)))
        (fresh / STORY).write_text(text + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(card(folder.name, model.config.model_type, told), encoding="utf-8")
        replace_folder(fresh, folder)
    except OSError as error:
        raise ModelError(f"'{folder}' cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def content(provenance: Mapping[str, object], vector: Mapping[str, object] | None) -> dict[str, Any]:
    """What zsrobust.json says of a model with this ``provenance`` and golden ``vector`` (None: nothing to compare)."""
    # Of a model that was read in another format, "format" was that one: from now on where it came from.
    kept = {"converted_from" if key == "format" else key: value for key, value in provenance.items() if key != GOLDEN}
    told: dict[str, Any] = {"format": FORMAT, **kept, "versions": written_with()}
    return told if vector is None else {**told, GOLDEN: dict(vector)}


def _check_target(folder: Path) -> None:
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / STORY).is_file():
            raise ConfigError(f"'{folder}' is not empty and was not written by zsrobust (no {STORY}); not overwritten")
    elif folder.exists():
        raise ConfigError(f"'{folder}' is a file, not a folder")


def replace_folder(fresh: Path, folder: Path) -> None:
    """``fresh`` becomes ``folder``; the earlier content, if any, is gone only after that."""
    if not folder.exists():
        os.rename(fresh, folder)
        return
    old = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.old"
    os.rename(folder, old)
    try:
        os.rename(fresh, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def written_with() -> dict[str, str]:
    """Versions of the packages that a saved model is opened with."""
    found = {}
    for package in ("zsrobust", "torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def card(title: str, family: str, story: Mapping[str, Any]) -> str:
    """The README.md of a model repository: YAML front matter and the provenance for people."""
    import yaml

    head: dict[str, object] = {}
    if story.get("license"):
        head["license"] = story["license"]
    # Of a prompted model transformers would open something else.
    head["library_name"] = "zsrobust" if PROMPT in story else "transformers"
    head["pipeline_tag"] = "zero-shot-image-classification"
    base = story.get("base_model") or story.get("source")
    if isinstance(base, str) and base.count("/") == 1:
        head["base_model"] = base
    head["tags"] = ["zsrobust", "adversarial-robustness", family]
    use = _USE + (_USE_PROMPTED if PROMPT in story else _USE_PLAIN)
    front = yaml.safe_dump(head, sort_keys=False).strip()
    return f"---\n{front}\n---\n\n# {title}\n\n{summary(story, base)}\n\n{provenance_table(story)}\n\n{use}"


def summary(story: Mapping[str, Any], base: object) -> str:
    """One paragraph of a card: what the model is and what its accuracy means."""
    adapted = story.get("adapted_on") or []
    tasks = ", ".join("data that is not known" if task == UNKNOWN else str(task) for task in adapted)
    if not adapted:
        return f"A copy of {base} written by zsrobust; not adapted."
    adaptation = story.get("adaptation")
    told = adaptation.get("method") if isinstance(adaptation, Mapping) else story.get("method")
    method = (told.get("name") if isinstance(told, Mapping) else told) or "an unnamed method"
    mixture = story.get("interpolation")
    mixed = (
        f"A mixture, with weight {mixture.get('alpha')} on the adapted model and the rest on the original: "
        if isinstance(mixture, Mapping) else ""
    )  # fmt: skip
    return (
        f"{mixed}{base}, adapted with {method} on {tasks}. Accuracy on these tasks is not zero-shot. A robust "
        "accuracy is an upper bound: it says what the attacks that were run did not find."
    )


def provenance_table(story: Mapping[str, Any]) -> str:
    """The provenance as a Markdown table."""
    rows = ["| provenance | |", "|---|---|"]
    for key, value in story.items():
        if key in ("format", GOLDEN):
            continue
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        cell = shown.replace("|", "\\|").replace("\n", " ")
        rows.append(f"| {key} | {cell} |")
    return "\n".join(rows)


_USE = """## Use

```python
import zsrobust as zr

encoder = zr.load("path/to/this/folder")
```
"""

_USE_PLAIN = """
`transformers.AutoModel.from_pretrained` and `transformers.AutoProcessor.from_pretrained` open the same
folder. The provenance above is in `zsrobust.json` for machines.
"""

_USE_PROMPTED = """
This model is a backbone with a visual prompt (`prompt.safetensors`). **`transformers` alone opens only the unprompted
backbone: another model, with other predictions and another robustness.** The provenance above, with what the prompt is,
is in `zsrobust.json` for machines.
"""
