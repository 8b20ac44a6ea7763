"""The report as Markdown."""

from __future__ import annotations

import re

from zsrobust.report.load import Model
from zsrobust.report.summary import Mean, Row, Summary
from zsrobust.report.view import Line, Table, conditions, remarks, tables, title
from zsrobust.report.words import UPPER_BOUND, percent, points, signed_span, span


def markdown(summary: Summary) -> str:
    """The whole report, ending in a newline. Names are escaped: they never become markup."""
    parts = [f"# {_escape(title(summary))}"]
    parts.append("\n".join(f"- {role}: {_escape(model.name)}" for role, model in _roles(summary)))
    for table in tables(summary):
        parts += _section(summary, table)
    if summary.across_seeds:
        parts += ["## Mean over seeds", _seeds(summary)]
    if found := remarks(summary):
        parts += ["## Remarks", "\n".join(f"- {_escape(remark)}" for remark in found)]
    parts.append(UPPER_BOUND + " Accuracies are in %, intervals at 95 %, changes in points.")
    return "\n\n".join(parts) + "\n"


def _roles(summary: Summary) -> list[tuple[str, Model]]:
    return [("adapted" if model.adapted_on else "not adapted", model) for model in summary.models]


def _section(summary: Summary, table: Table) -> list[str]:
    seeds = f", seed {table.seed}" if len(summary.seeds) > 1 else ""
    parts = [f"## {table.threat.short} ({table.threat.norm}, {table.threat.space}){seeds}"]
    parts.append("\n".join(f"- {noun}: {_escape(sentence)}" for noun, sentence in conditions(summary, table)))
    parts += [_headline(table, line) for line in table.headline]
    parts += [_block_table(table)]
    return parts


def _headline(table: Table, line: Line) -> str:
    words = f"{table.headline_words}" + ("" if table.pair else f", {_escape(line.model)}")
    change = line.change
    if change is None:
        return f"**{words}: robust {_value(line.after, 'robust')}, clean {_value(line.after, 'clean')}**"
    return (
        f"**{words}: robust {percent(change.robust_before)} → {percent(change.robust_after)}, "
        f"{points(change.robust_change)} points ({signed_span(change.robust_change_interval)}); "
        f"clean {percent(change.clean_before)} → {percent(change.clean_after)}, "
        f"{points(change.clean_change)} points ({signed_span(change.clean_change_interval)})**"
    )


def _block_table(table: Table) -> str:
    if table.pair:
        head = [
            "Task",
            "n",
            "Clean before",
            "Clean after",
            "Robust before",
            "Robust after",
            "Change in robust",
        ]
    else:
        head = ["Task", "Model", "n", "Clean", "Robust", "Change in robust"]
    text = 1 if table.pair else 2
    lines = [head, ["---"] * text + ["---:"] * (len(head) - text)]
    for block in table.blocks:
        lines.append([f"**{block.title}** ({block.words})", *[""] * (len(head) - 1)])
        lines += [_cells(line, bool(table.pair)) for line in block.lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(line: Line, paired: bool) -> list[str]:
    change = (
        ""
        if line.change is None
        else (f"{points(line.change.robust_change)} ({signed_span(line.change.robust_change_interval)})")
    )
    label = f"*{line.label}*" if line.mean else _escape(line.label)
    values = []
    for what in ("clean", "robust"):
        if paired:
            values.append("" if line.before is None else _value(line.before, what))
        values.append(_value(line.after, what))
    return [label, *([] if paired else [_escape(line.model)]), str(line.n), *values, change]


def _value(scores: Row | Mean, what: str) -> str:
    return f"{percent(getattr(scores, what))} ({span(getattr(scores, what + '_interval'))})"


def _seeds(summary: Summary) -> str:
    lines = [["Model", "Tier", "Threat", "Seeds", "Clean (least–largest)", "Robust (least–largest)"]]
    lines.append(["---"] * 3 + ["---:"] * 3)
    for a in summary.across_seeds:
        values = [f"{percent(v)} ({span(r)})" for v, r in ((a.clean, a.clean_range), (a.robust, a.robust_range))]
        lines.append([_escape(a.model), a.tier, a.threat, str(len(a.seeds)), *values])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))
