"""What ``zsrobust corruptions`` prints.

Apart from the options, because jsonargparse resolves every import of their module, those for type checkers too.
"""

from __future__ import annotations

from zsrobust.corruptions import Cell, CorruptionTable


def lines(table: CorruptionTable) -> list[str]:
    """The table in plain text, at most 80 columns for the five strengths."""
    text: list[str] = []
    for task in table.tasks:
        n = table.cell(table.models[0], task, "clean", 0).n
        text += [f"Task     {task}, {n:,} images, accuracy in % under each corruption, by strength"]
        for model in table.models:
            text += ["", *_of_model(table, model, task)]
        text.append("")
    if len(table.tasks) > 1:
        text += [f"Mean     over {len(table.tasks)} tasks, each weighing the same"]
        for name in ("clean", "all"):
            strength = 0 if name == "clean" else None
            cells = [table.cell(model, "all", name, strength) for model in table.models]
            label = "clean" if name == "clean" else "corrupted"
            text += [f"  {cell.model}: {label} {_value(cell)}{_change(cell)}" for cell in cells]
        text.append("")
    text += [
        "Intervals are 95 %, over the sampling of images. mean: over the strengths; all: over",
        "all corruptions and strengths.",
    ]
    if len(table.models) > 1:
        text += [
            f"Changes are from {table.models[0]}, on the same images, in points; p after Holm's correction over",
            "the rows of a table (McNemar's exact test for one number, resampled images for",
            "a mean). *: told apart from none, p below 0.05.",
        ]
    return text


def _of_model(table: CorruptionTable, model: str, task: str) -> list[str]:
    first = model == table.models[0]
    head = "".join(f"{k:>7}" for k in table.strengths)
    clean = table.cell(model, task, "clean", 0)
    text = [f"{model}", f"  {'clean':<11}{_value(clean)}{_change(clean)}"]
    text.append(f"  {'':<11}{head}   mean" + ("" if first else "   change of the mean"))
    for name in table.corruptions:
        cells = [table.cell(model, task, name, k) for k in table.strengths]
        row = "".join(f"{_percent(cell):>6}{_mark(cell) or ' '}" for cell in cells)
        mean = table.cell(model, task, name, None)
        text.append(f"  {name:<11}{row} {_percent(mean):>6}{_change(mean)}")
    every = table.cell(model, task, "all", None)
    return [*text, f"  {'all':<11}{_value(every)}{_change(every)}"]


def _percent(cell: Cell) -> str:
    return f"{100 * cell.accuracy:.1f}"


def _value(cell: Cell) -> str:
    return f"{_percent(cell)} [{100 * cell.interval[0]:.1f}-{100 * cell.interval[1]:.1f}]"


def _mark(cell: Cell) -> str:
    return "*" if cell.difference is not None and cell.difference.p_holm < 0.05 else ""


def _change(cell: Cell) -> str:
    """``  -3.1 [-4.0 to -2.2], p < 0.001*``, or nothing for the first model."""
    d = cell.difference
    if d is None:
        return ""
    p = "p < 0.001" if d.p_holm < 0.001 else f"p = {d.p_holm:.2g}"
    return f"   {100 * d.value:+.1f} [{100 * d.interval[0]:+.1f} to {100 * d.interval[1]:+.1f}], {p}{_mark(cell)}"
