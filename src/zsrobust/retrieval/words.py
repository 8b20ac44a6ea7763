"""The report of a retrieval run, on a terminal and in markdown."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zsrobust.report.words import mark, parse_threat, percent, plural, points, span
from zsrobust.retrieval.ranks import KS
from zsrobust.retrieval.summary import IMAGE_TO_TEXT, TEXT_TO_IMAGE, Change, Recall, Summary, conditions

_QUESTIONS = {
    IMAGE_TO_TEXT: "is a caption of it among the first K of {candidates}?",
    TEXT_TO_IMAGE: "is an image of it among the first K of {candidates}?",
}
LEGEND = (
    "A recall under attack is an upper bound: a stronger attack can only lower it. Each image is attacked alone; the "
    "adversary knows the model and all texts. text→image: every image of the gallery is attacked, with the same "
    "perturbation as for image→text. A query counts under attack only if it is found clean too."
)
_CHANGES = (
    "A change is to the first model, on the same queries; * is told apart from none (p below 0.05, resampling images, "
    "Holm's correction over all changes)."
)
_TOO_FEW = "– : the gallery has no more than K candidates, so every query would be found."


def terminal(summary: Summary, console: Console | None = None) -> None:
    """Print a summary, within 80 columns."""
    console = console or Console()
    facts = Table.grid(padding=(0, 1, 0, 0))
    for noun, sentence in _facts(summary):
        facts.add_row(f"[bold]{noun:<8}[/]", escape(sentence))
    console.print(facts)
    for direction in (IMAGE_TO_TEXT, TEXT_TO_IMAGE):
        n, candidates = _sizes(summary, direction)
        question = _QUESTIONS[direction].format(candidates=candidates)
        console.print(f"\n[bold]{direction}[/], n = {n:,}: {question}", highlight=False)
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        grid.add_column("found in %", overflow="ellipsis", no_wrap=True, max_width=26)
        for k in KS:
            grid.add_column(f"R@{k}", justify="right", no_wrap=True)
        for label, cells in _lines(summary, direction):
            grid.add_row(escape(label), *cells, style=None if cells else "bold")
        console.print(grid)
    for note in _notes(summary):
        console.print(f"[dim]{note}[/]", highlight=False)


def plain(summary: Summary) -> str:
    """What :func:`terminal` prints, as text without colours."""
    stream = io.StringIO()
    terminal(summary, Console(file=stream, width=80, color_system=None))
    return stream.getvalue()


def markdown(summary: Summary) -> str:
    """The same as a page."""
    parts = ["# Retrieval", "\n".join(f"- {noun}: {sentence}" for noun, sentence in _facts(summary))]
    for direction in (IMAGE_TO_TEXT, TEXT_TO_IMAGE):
        n, candidates = _sizes(summary, direction)
        rows = [["found in %", *(f"R@{k}" for k in KS)], ["---", *("---:" for _ in KS)]]
        for label, cells in _lines(summary, direction):
            rows.append([label.strip() if cells else f"**{label}**", *(cells or ["" for _ in KS])])
        table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
        parts += [f"## {direction}", f"n = {n:,}: {_QUESTIONS[direction].format(candidates=candidates)}", table]
    return "\n\n".join([*parts, *_notes(summary)]) + "\n"


def _facts(summary: Summary) -> list[tuple[str, str]]:
    captions = summary.captions
    drawn = f" of {captions['of']:,}, drawn with seed {captions['limit']['seed']}" if captions["limit"] else ""
    facts = [("Model", model) for model in summary.models]
    facts.append(("Captions", f"{captions['name']}: {plural(int(captions['images']), 'image')}{drawn}, "
                  f"{plural(int(captions['texts']), 'distinct text')}"))  # fmt: skip
    if summary.attacks:
        facts.append(("Threat", parse_threat(summary.threat).words + f" ({summary.threat})"))
        facts.append(("Attack", f"{', '.join(summary.attacks)}; seed {summary.seed}"))
    return facts


def _sizes(summary: Summary, direction: str) -> tuple[int, str]:
    images, texts = int(summary.captions["images"]), int(summary.captions["texts"])
    return (images, plural(texts, "text")) if direction == IMAGE_TO_TEXT else (texts, plural(images, "image"))


def _lines(summary: Summary, direction: str) -> list[tuple[str, list[str]]]:
    """Label and cells; a model's name has no cells."""
    lines: list[tuple[str, list[str]]] = []
    for model in summary.models:
        lines.append((model, []))
        for attack in conditions(summary.attacks):
            here = [r for r in summary.recalls if (r.model, r.direction, r.attack) == (model, direction, attack)]
            lines.append((f"  {attack}", _cells(here)))
        for attack in conditions(summary.attacks):
            there = [c for c in summary.changes if (c.model, c.direction, c.attack) == (model, direction, attack)]
            if model != summary.models[0]:
                lines.append((f"  change, {attack}", _cells(there)))
    return lines


def _cells(found: Sequence[Recall] | Sequence[Change]) -> list[str]:
    by_k = {item.k: item for item in found}
    return [_cell(by_k[k]) if k in by_k else "–" for k in KS]


def _cell(item: Recall | Change) -> str:
    if isinstance(item, Recall):
        return f"{percent(item.found)} ({span(item.interval, 0)})"
    low, high = (f"{100 * end:+.0f}".replace("-", "−").replace("+0", "0").replace("−0", "0") for end in item.interval)
    return f"{points(item.change)} ({low} to {high}){mark(item.p_holm)}"


def _notes(summary: Summary) -> list[str]:
    sizes = (int(summary.captions["images"]), int(summary.captions["texts"]))
    notes = ["In brackets: 95 % interval, resampling images."]
    notes += [LEGEND] if summary.attacks else []
    notes += [_CHANGES] if summary.changes else []
    return notes + ([_TOO_FEW] if min(sizes) <= max(KS) else [])
