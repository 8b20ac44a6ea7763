"""The figures as Markdown, for docs/performance.md: every number comes from the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.speed.figure import RATIOS

Row = Mapping[str, Any]


def markdown(result: Row) -> str:
    """Speeds with their ratios, then curves, then everything else, under a line about the machine."""
    figures: Sequence[Row] = result["figures"]
    curves = [row for row in figures if "points" in row]
    speeds = [row for row in figures if "points" not in row and any(ratio in row for ratio in RATIOS)]
    others = [row for row in figures if row not in curves and row not in speeds]
    parts = [_about(result), _speeds(speeds) if speeds else "", _others(others) if others else ""]
    return "\n\n".join(part for part in [*parts, _curves(curves) if curves else ""] if part)


def _about(result: Row) -> str:
    machine, versions = result["machine"], result["versions"]
    return (
        f"Measured with `{result['command']}` on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['threads']} threads, {machine['memory_gib']} GiB, device {machine['device']}, load before "
        f"{machine['load_before']:.2g}; torch {versions['torch']}, transformers {versions['transformers']}."
    )


def _speeds(rows: Sequence[Row]) -> str:
    used = [ratio for ratio in RATIOS if any(ratio in row for row in rows)]
    names = ["figure", "value", "unit", *(f"× {ratio.removeprefix('ratio_to_')}" for ratio in used), "spread", "n"]
    lines = [[_named(row), number(row["value"]), row["unit"], *(number(row.get(ratio)) for ratio in used),
              _percent(row["spread"]), str(row["n"])] for row in rows]  # fmt: skip
    return _table(names, lines, left=(0, 2))


def _others(rows: Sequence[Row]) -> str:
    lines = [[_named(row), number(row["value"]), row["unit"], _why(row)] for row in rows]
    return _table(["figure", "value", "unit", ""], lines, left=(0, 2, 3))


def _curves(rows: Sequence[Row]) -> str:
    names = ["curve", "x", "measured (x → y)", "exponent", "of its work", "faster than its work"]
    lines = []
    for row in rows:
        about = row["settings"]
        points = ", ".join(f"{number(x)} → {number(y)}" for x, y, _ in row["points"])
        grows = "**yes**" if about["faster_than_its_work"] else "no"
        lines.append([_named(row), f"{about['x']}; {about['y']}", points, number(row["value"]),
                      number(about["exponent_of_the_work"]), grows])  # fmt: skip
    return _table(names, lines, left=(0, 1, 2, 5))


def _named(row: Row) -> str:
    return f"`{row['name']}`"


def _why(row: Row) -> str:
    about = row["settings"]
    return str(about.get("why") or about.get("estimated") or about.get("command") or "")


def number(value: float | None) -> str:
    """Three digits; nothing for None."""
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _table(names: Sequence[str], lines: Sequence[Sequence[str]], *, left: Sequence[int]) -> str:
    rule = ["---" if i in left else "---:" for i in range(len(names))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [names, rule, *lines])
