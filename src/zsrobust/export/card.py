"""The README.md of an export, in the hub's format: what it is, what was measured, how to open it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zsrobust.encoders import saving
from zsrobust.export.base import Written
from zsrobust.export.results import Evaluated, model_index, table
from zsrobust.report.words import IN_DOUBT, UPPER_BOUND

_NOT_SHOWN = ("format", "golden")


def card(title: str, family: str, story: Mapping[str, Any], written: Written, found: Evaluated) -> str:
    """The whole text.

    Args:
        title: The model's name.
        family: ``clip`` or ``siglip``.
        story: Its provenance, as in zsrobust.json.
        written: What the format says of its folder.
        found: Evaluation results; may be empty.
    """
    base = story.get("base_model") or story.get("source")
    parts = [
        f"---\n{_front(title, family, story, base, written, found)}\n---",
        f"# {title}",
        saving.summary(story, base),
        _evaluation(found),
        written.use.strip(),
        "## Provenance",
        saving.provenance_table({key: value for key, value in story.items() if key not in _NOT_SHOWN}),
    ]
    return "\n\n".join(parts) + "\n"


def _front(title: str, family: str, story: Mapping[str, Any], base: object, written: Written, found: Evaluated) -> str:
    from huggingface_hub import ModelCardData

    known = story.get("license")
    data = ModelCardData(
        license=known if isinstance(known, str) else None,
        library_name=written.library,
        pipeline_tag=written.pipeline,
        base_model=base if isinstance(base, str) and base.count("/") == 1 else None,
        tags=["zsrobust", "adversarial-robustness", family],
        model_name=title if found.rows else None,
        eval_results=model_index(found) or None,
    )
    return str(data.to_yaml())


def _evaluation(found: Evaluated) -> str:
    if not found.rows:
        return (
            "## Evaluation\n\nNo results came with this export. `zsrobust evaluate` measures them, and "
            "`zsrobust export --results RUN` writes them here."
        )
    head, *rows = table(found)
    lines = [f"| {' | '.join(_escaped(row))} |" for row in rows]
    parts = [
        "## Evaluation",
        "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines]),
        "In parentheses 95 % intervals over the images. " + UPPER_BOUND,
    ]
    if any(alarm.doubt for row in found.rows for alarm in row.flags):
        parts.append(IN_DOUBT)
    alarms = dict.fromkeys(f"- {alarm.name or 'alarm'}: {alarm.text}" for row in found.rows for alarm in row.flags)
    if alarms:
        parts.append("Alarms:\n\n" + "\n".join(alarms))
    if found.notes:
        parts.append("\n".join(f"- {note}" for note in found.notes))
    return "\n\n".join(parts)


def _escaped(cells: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
