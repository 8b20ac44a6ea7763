"""Checkpoints out: a model as a folder that transformers, open_clip, LLaVA-like models or onnxruntime open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsrobust.errors import ConfigError
from zsrobust.registry import Registry

if TYPE_CHECKING:
    from zsrobust.encoders import Encoder
    from zsrobust.text_head import TextHead

__all__ = ["FORMATS", "Exported", "export"]

FORMATS = Registry(
    "format",
    {
        "hf": "zsrobust.export.hugging_face:write",
        "open_clip": "zsrobust.export.open_clip:write",
        "visual": "zsrobust.export.visual:write",
        "onnx": "zsrobust.export.onnx:write",
    },
)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        files: Paths within it, sorted.
        facts: What the format says of it, as in ``export.json``: input, activation, what was checked.
        results: How many rows of evaluation results are on the card.
    """

    folder: Path
    files: tuple[str, ...]
    facts: Mapping[str, Any]
    results: int


def export(
    encoder: Encoder,
    folder: str | Path,
    *,
    format: str = "hf",
    heads: Mapping[str, TextHead] | None = None,
    results: Sequence[str | Path] = (),
    repo: str | None = None,
) -> Exported:
    """Write a model in another format, with a model card, ``export.json`` and what was measured.

    The folder appears at once when all of it is there, or not at all.

    Args:
        encoder: A CLIP or SigLIP of transformers. One with a visual prompt can only become ONNX; one that is random or
            has a test-time defence nothing.
        folder: New, empty, or an earlier export of the same model in the same format, which is replaced.
        format: ``"hf"``, ``"open_clip"``, ``"visual"`` (the bare visual tower) or ``"onnx"``.
        heads: Name → text head, of ONNX: each is a file; a single one also gives the graph an output ``logits``.
        results: Run folders of ``zsrobust evaluate`` in which this model was evaluated, for the card.
        repo: ``owner/name`` that it will be pushed to: it is then named so on the card.

    Returns:
        What was written.

    Raises:
        UnknownName: No such format.
        ConfigError: Something else is in the folder, heads for a format that has none, or ONNX is not installed.
        ModelError: The format cannot hold this model, or what was written is not the model.
        RunError: A run is about another model.
    """
    from zsrobust.evaluation import fingerprint_of
    from zsrobust.export import results as evaluated
    from zsrobust.export.base import Request
    from zsrobust.export.folder import check_target, staged

    writer = FORMATS[format]
    if heads and format != "onnx":
        raise ConfigError(f"text heads (--classes, --tasks) are for --format onnx; the format {format} has none")
    place = Path(folder).expanduser()
    fingerprint = fingerprint_of(encoder)
    check_target(place, format, fingerprint)
    found = evaluated.read(results, name=encoder.name, fingerprint=fingerprint)
    request = Request(title=repo.split("/")[1] if repo else place.resolve().name, repo=repo, heads=heads or {})
    with staged(place) as fresh:
        written = writer(encoder, fresh, request)
        told = {"kind": format, "model": encoder.name, "fingerprint": fingerprint, **written.facts}
        _describe(fresh, encoder, request.title, told, written, found)
        files = tuple(sorted(str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file()))
    return Exported(place, files, written.facts, len(found.rows))


def _describe(folder: Path, encoder: Any, title: str, told: Mapping[str, Any], written: Any, found: Any) -> None:
    """Card, ``export.json`` and ``.eval_results``."""
    import yaml

    from zsrobust.encoders import saving
    from zsrobust.export.card import card
    from zsrobust.export.folder import EXPORT, FORMAT, write_json
    from zsrobust.export.results import hub_entries

    story = dict(encoder.provenance)
    versions = saving.written_with()
    write_json(folder / EXPORT, {"format": FORMAT, **told, "provenance": story, "versions": versions})
    family = getattr(encoder, "base", encoder).model.config.model_type
    text = card(title, family, {**story, "versions": versions}, written, found)
    (folder / "README.md").write_text(text, encoding="utf-8")
    for name, content in hub_entries(found).items():
        (folder / ".eval_results").mkdir(exist_ok=True)
        (folder / ".eval_results" / name).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
