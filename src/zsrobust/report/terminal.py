"""The report on a terminal; everything fits into 80 columns."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from zsrobust.report import quoting
from zsrobust.report.quoting import Quotation, quotations
from zsrobust.report.results import ALL, Mean, Row
from zsrobust.report.summary import Summary
from zsrobust.report.view import (
    Line,
    Table,
    conditions,
    defended_rows,
    remarks,
    rows_of,
    seed_lines,
    seeds_in_doubt,
    short_names,
    tables,
    two_class_rows,
    two_numbers,
)
from zsrobust.report.words import (
    IN_DOUBT,
    TOLD_APART,
    TWO_NUMBERS,
    UPPER_BOUND,
    mark,
    percent,
    points,
    signed_span,
    span,
    told_apart_words,
)


def terminal(summary: Summary, console: Console | None = None) -> None:
    """Print a summary: for each threat and seed its conditions, table and headline; then alarms and notes."""
    console = console or Console()
    console.print(_facts(_roles(summary)))
    for table in tables(summary):
        _print_table(summary, table, console)
    if summary.across_seeds:
        _print_seeds(summary, console)
    for remark in remarks(summary):
        console.print(f"[bold]![/] {escape(remark)}", highlight=False)
    legend = [UPPER_BOUND]
    legend += [TOLD_APART] if summary.comparisons else []
    legend += [IN_DOUBT] if any(alarm.doubt for row in summary.rows for alarm in row.flags) else []
    console.print(f"\n[dim]{' '.join(legend)}[/]", highlight=False)


def plain(summary: Summary) -> str:
    """What :func:`terminal` prints, as text without colours."""
    stream = io.StringIO()
    terminal(summary, Console(file=stream, width=80, color_system=None))
    return stream.getvalue()


def _roles(summary: Summary) -> list[tuple[str, str]]:
    names = [model.name for model in summary.models]
    if len(names) == 2 and len(summary.pairs) == 1:
        return [("Before", summary.pairs[0][0]), ("After", summary.pairs[0][1])]
    return [("Model", name) for name in names]


def _facts(facts: Iterable[tuple[str, str]]) -> Grid:
    grid = Grid.grid(padding=(0, 1, 0, 0))
    for noun, sentence in facts:
        grid.add_row(f"[bold]{noun:<8}[/]", escape(sentence))
    return grid


def _print_table(summary: Summary, table: Table, console: Console) -> None:
    console.print()
    console.print(_facts(conditions(summary, table)))
    flat = table.pair is not None or len(summary.models) == 1
    names = {} if flat else short_names(summary)
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=False)
    grid.add_column("accuracy in %", overflow="fold" if flat else "ellipsis", no_wrap=not flat, max_width=26)
    numbers = ["n", "clean", "robust (95 % interval)", *(["change"] if summary.pairs else [])]
    for column in numbers:  # of a line that is too long the label is folded, never a number
        grid.add_column(column, justify="right", no_wrap=True)
    for i, block in enumerate(table.blocks):
        if i:
            grid.add_section()
        grid.add_row(f"[bold underline]{block.title}[/]")
        shown = ""
        for line in block.lines:
            if not flat and line.label != shown:
                grid.add_row(escape(line.label), style="bold" if line.mean else None)
                shown = line.label
            grid.add_row(*_cells(line, names, bool(summary.pairs)), style="bold" if line.mean else None)
    console.print(grid)
    if two_class := two_class_rows(summary, table):
        _print_two_class(two_class, short_names(summary), console)
    if two := defended_rows(summary, table):
        _print_two_numbers(two, short_names(summary), console)
    result = Grid.grid(padding=(0, 1, 0, 0))
    for line in table.headline:
        name = short_names(summary)[line.model] if len(summary.models) > 1 and table.of_one(line) else ""
        result.add_row("[bold]Headline[/]", _headline(line, name))
    console.print(result)
    if quoted := quotations(summary, rows_of(summary, table)):
        _print_published(quoted, console)


def _cells(line: Line, names: Mapping[str, str], changes: bool) -> list[str]:
    clean, robust = percent(line.after.clean), _robust(line.after)
    if line.before is not None:
        clean, robust = f"{percent(line.before.clean)} → {clean}", f"{_robust(line.before)} → {robust}"
    label = f"  {names[line.model]}" if names else line.label
    if changes and not names and line.before is None:
        label += f" ({line.model} only)"
    cells = [escape(label), f"{line.n}", clean, robust + ("!" if line.alarms else "")]
    if not changes:
        return cells
    return [
        *cells,
        "" if line.change is None else points(line.change.robust_change) + mark(line.change.robust_p_holm),
    ]


def _robust(scores: Row | Mean) -> str:
    return f"{percent(scores.robust)} ({span(scores.robust_interval, 0)})"


def _headline(line: Line, name: str) -> str:
    words = escape(line.label + (f", {name}" if name else ""))
    change, doubt = line.change, "!" if line.alarms else ""
    if change is None:
        return (
            f"[bold]{words}: robust {percent(line.after.robust)} % ({span(line.after.robust_interval)}){doubt}[/], "
            f"clean {percent(line.after.clean)} % ({span(line.after.clean_interval)})"
        )
    return (
        f"[bold]{words}: robust {percent(change.robust_before)} → {percent(change.robust_after)} %{doubt}, "
        f"{points(change.robust_change)} points ({signed_span(change.robust_change_interval)}), "
        f"{told_apart_words(change, 'robust')}[/]; "
        f"clean {percent(change.clean_before)} → {percent(change.clean_after)} %, "
        f"{points(change.clean_change)} points ({signed_span(change.clean_change_interval)}), "
        f"{told_apart_words(change, 'clean')}"
    )


def _print_published(quoted: Sequence[Quotation], console: Console) -> None:
    console.print(f"\n[bold underline]{quoting.TITLE}[/]\n[dim]{quoting.WORDS}[/]", highlight=False)
    for quotation in quoted:
        console.print()
        console.print(_facts(quotation.facts))
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        grid.add_column("here, published", overflow="ellipsis", no_wrap=True, max_width=20)
        for column in ("images", "clean, %", "robust, %"):
            grid.add_column(column, justify="right", no_wrap=True)
        for quote in quotation.quotes:
            grid.add_row(*map(escape, quote.cells))
        console.print(grid)
        for remark in quotation.remarks:
            console.print(f"[dim]{escape(remark)}[/]", highlight=False)


def _print_two_numbers(rows: Sequence[Row], names: Mapping[str, str], console: Console) -> None:
    title = "Test-time defences: robust accuracy in % (95 % interval)"
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    for column, width in (("task", 18), ("model", 28)):  # a defence's options are part of the name
        grid.add_column(column, overflow="ellipsis", no_wrap=True, max_width=width)
    for column in ("oblivious", "adaptive"):
        grid.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{percent(v)} ({span(i, 0)})" if v is not None and i else "not tried" for v, i in two_numbers(row)]
        grid.add_row(escape(row.task), escape(names[row.model]), *cells)
    console.print(grid)
    console.print(f"[dim]{TWO_NUMBERS}[/]\n", highlight=False)


def _print_two_class(rows: list[Row], names: Mapping[str, str], console: Console) -> None:
    title = "Tasks with two classes, in %"
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    for column in ("task", "model"):
        grid.add_column(column, overflow="ellipsis", no_wrap=True, max_width=20)
    for column in ("balanced accuracy", "AUROC"):
        grid.add_column(f"{column}\nclean, robust", justify="right", no_wrap=True)
    for row in rows:
        scores = (row.clean_balanced_accuracy, row.robust_balanced_accuracy, row.clean_auroc, row.robust_auroc)
        words = [percent(score) for score in scores if score is not None]
        grid.add_row(escape(row.task), escape(names[row.model]), ", ".join(words[:2]), ", ".join(words[2:]))
    console.print(grid)


def _print_seeds(summary: Summary, console: Console) -> None:
    names = short_names(summary)
    for threat, seeds in dict.fromkeys((a.threat, a.seeds) for a in summary.across_seeds):
        title = f"Mean over seeds {', '.join(map(str, seeds))} under {escape(threat)} (95 % interval)"
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title)
        for column in ("model", "tier (tasks)"):
            grid.add_column(column, overflow="ellipsis", no_wrap=True, max_width=17)
        for column in ("n", "clean", "robust", "least–largest"):
            grid.add_column(column, justify="right", no_wrap=True)
        for a in seed_lines(summary):
            if (a.threat, a.seeds, a.which) == (threat, seeds, ALL):
                accuracies = ((a.clean, a.clean_interval), (a.robust, a.robust_interval))
                values = [f"{percent(value)} ({span(interval, 0)})" for value, interval in accuracies]
                values[-1] += "!" if seeds_in_doubt(summary, a) else ""
                tier = f"{a.tier} ({len(a.tasks)})"
                grid.add_row(escape(names[a.model]), tier, str(a.n), *values, span(a.robust_range))
        console.print(grid)
