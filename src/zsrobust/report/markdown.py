"""The report as Markdown."""

from __future__ import annotations

import re

from zsrobust.report import quoting
from zsrobust.report.load import Model
from zsrobust.report.quoting import Quotation, quotations
from zsrobust.report.results import ALL, Mean, Row
from zsrobust.report.summary import Summary
from zsrobust.report.view import (
    Line,
    Table,
    broken_by,
    conditions,
    defended_rows,
    remarks,
    rows_of,
    seed_lines,
    seeds_in_doubt,
    tables,
    title,
    two_class_rows,
    two_numbers,
)
from zsrobust.report.words import (
    IN_DOUBT,
    TWO_NUMBERS,
    UPPER_BOUND,
    percent,
    points,
    signed_span,
    span,
    told_apart_words,
)


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
    doubt = f" {IN_DOUBT}" if any(alarm.doubt for row in summary.rows for alarm in row.flags) else ""
    parts.append(f"{UPPER_BOUND}{doubt} Accuracies are in %, intervals at 95 %, changes in points.")
    return "\n\n".join(parts) + "\n"


def _roles(summary: Summary) -> list[tuple[str, Model]]:
    return [("adapted" if model.adapted_on else "not adapted", model) for model in summary.models]


def _section(summary: Summary, table: Table) -> list[str]:
    seeds = f", seed {table.seed}" if len(summary.seeds) > 1 else ""
    parts = [f"## {table.threat.short} ({table.threat.norm}, {table.threat.space}){seeds}"]
    parts.append("\n".join(f"- {noun}: {_escape(sentence)}" for noun, sentence in conditions(summary, table)))
    parts += [_headline(table, line) for line in table.headline]
    parts += [_block_table(table)]
    if two := defended_rows(summary, table):
        parts += [TWO_NUMBERS, _two_numbers(two)]
    if two_class := two_class_rows(summary, table):
        parts += ["Tasks with two classes:", _two_class(two_class)]
    parts += ["Attack by attack, with the mean passes for an example:", _prices(rows_of(summary, table))]
    if quoted := quotations(summary, rows_of(summary, table)):
        parts += [f"### {quoting.TITLE}", quoting.WORDS]
        parts += [part for quotation in quoted for part in _published(quotation)]
    return parts


def _published(quotation: Quotation) -> list[str]:
    head = ["Task", "Images: here, published", "Clean: here, published", "Robust: here, published"]
    lines = [head, ["---"] + ["---:"] * 3, *([_escape(cell) for cell in quote.cells] for quote in quotation.quotes)]
    facts = [f"- {noun}: {_escape(sentence)}" for noun, sentence in quotation.facts]
    return ["\n".join(facts), _lines(lines), "\n".join(f"- {_escape(remark)}" for remark in quotation.remarks)]


def _headline(table: Table, line: Line) -> str:
    words = _escape(line.label) + (f", {_escape(line.model)}" if table.of_one(line) else "")
    change, doubt = line.change, " !" if line.alarms else ""
    if change is None:
        return f"**{words}: robust {_value(line.after, 'robust')}{doubt}, clean {_value(line.after, 'clean')}**"
    return (
        f"**{words}: robust {percent(change.robust_before)} → {percent(change.robust_after)}{doubt}, "
        f"{points(change.robust_change)} points ({signed_span(change.robust_change_interval)}), "
        f"{told_apart_words(change, 'robust')}; "
        f"clean {percent(change.clean_before)} → {percent(change.clean_after)}, "
        f"{points(change.clean_change)} points ({signed_span(change.clean_change_interval)}), "
        f"{told_apart_words(change, 'clean')}**"
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
            "Told apart?",
        ]
    else:
        head = ["Task", "Model", "n", "Clean", "Robust", "Change in robust", "Told apart?"]
    text = 1 if table.pair else 2
    lines = [head, ["---"] * text + ["---:"] * (len(head) - text)]
    for block in table.blocks:
        lines.append([f"**{block.title}** ({block.words})", *[""] * (len(head) - 1)])
        lines += [_cells(table, line) for line in block.lines]
    return _lines(lines)


def _cells(table: Table, line: Line) -> list[str]:
    change = ["", ""]
    if line.change is not None:
        span_words = signed_span(line.change.robust_change_interval)
        change = [f"{points(line.change.robust_change)} ({span_words})", told_apart_words(line.change, "robust")]
    label = f"*{_escape(line.label)}*" if line.mean else _escape(line.label)
    values = []
    for what, doubt in (("clean", ""), ("robust", " !" if line.alarms else "")):
        sides = ["" if line.before is None else _value(line.before, what), _value(line.after, what) + doubt]
        if table.pair is None:
            del sides[0]
        elif table.only_before(line):
            sides.reverse()
        values += sides
    return [label, *([] if table.pair else [_escape(line.model)]), str(line.n), *values, *change]


def _value(scores: Row | Mean, what: str) -> str:
    return f"{percent(getattr(scores, what))} ({span(getattr(scores, what + '_interval'))})"


def _two_numbers(rows: list[Row]) -> str:
    lines = [["Task", "Model", "n", "Clean", "Robust, oblivious", "Robust, adaptive"], ["---"] * 2 + ["---:"] * 4]
    for row in rows:
        numbers = [f"{percent(v)} ({span(i)})" if v is not None and i else "not tried" for v, i in two_numbers(row)]
        lines.append([_escape(row.task), _escape(row.model), str(row.n), _value(row, "clean"), *numbers])
    return _lines(lines)


def _two_class(rows: list[Row]) -> str:
    lines = [["Task", "Model", "Balanced, clean", "Balanced, robust", "AUROC, clean", "AUROC, robust"]]
    lines.append(["---"] * 2 + ["---:"] * 4)
    for row in rows:
        scores = (row.clean_balanced_accuracy, row.robust_balanced_accuracy, row.clean_auroc, row.robust_auroc)
        lines.append([_escape(row.task), _escape(row.model), *(percent(s) for s in scores if s is not None)])
    return _lines(lines)


def _prices(rows: list[Row]) -> str:
    lines = [["Task", "Model", "Forwards", "Backwards", "Broken by"], ["---"] * 2 + ["---:"] * 2 + ["---"]]
    for row in rows:
        passes = [f"{value:,.1f}" for value in (row.forwards, row.backwards)]
        lines.append([_escape(row.task), _escape(row.model), *passes, _escape(broken_by(row))])
    return _lines(lines)


def _seeds(summary: Summary) -> str:
    head = ["Model", "Tier", "Tasks", "Threat", "Seeds", "n"]
    head += ["Clean", "Clean, least–largest", "Robust", "Robust, least–largest"]
    lines = [head, ["---"] * 2 + ["---:"] + ["---"] * 2 + ["---:"] * 5]
    for a in seed_lines(summary):
        tier = a.tier if a.which == ALL else f"{a.tier}, {a.which}"
        doubt = " !" if seeds_in_doubt(summary, a) else ""
        cells = [_escape(a.model), tier, str(len(a.tasks)), a.threat, ", ".join(map(str, a.seeds)), str(a.n)]
        cells += [f"{percent(a.clean)} ({span(a.clean_interval)})", span(a.clean_range)]
        lines.append([*cells, f"{percent(a.robust)} ({span(a.robust_interval)}){doubt}", span(a.robust_range)])
    return _lines(lines)


def _lines(cells: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))
