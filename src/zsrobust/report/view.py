"""A summary laid out for the eye: the tables that terminal, Markdown and HTML all show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from zsrobust.report.merge import settings_of
from zsrobust.report.summary import Comparison, Mean, Row, Summary
from zsrobust.report.words import NOT_ADAPTED, TIER_WORDS, TIERS, Threat, plural

Scores = TypeVar("Scores", Row, Mean)
Changes = dict[tuple[str, str | None, str], Comparison]


@dataclass(frozen=True)
class Line:
    """One line of a table: a task or the mean over a tier; ``before`` is None if there is nothing before."""

    label: str
    model: str
    n: int
    before: Row | Mean | None
    after: Row | Mean
    change: Comparison | None
    mean: bool


@dataclass(frozen=True)
class Block:
    """The lines of one tier."""

    tier: str
    title: str
    words: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    """All tiers under one threat with one seed.

    ``pair`` is (before, after) when there are just these two models, and a line then shows both; otherwise
    each model has a line of its own.
    """

    threat: Threat
    seed: int
    attacks: tuple[str, ...]
    pair: tuple[str, str] | None
    blocks: tuple[Block, ...]
    headline: tuple[Line, ...]
    headline_words: str


def tables(summary: Summary) -> tuple[Table, ...]:
    """One table for each threat and seed, the primary threat first (the first of the run with ε > 0)."""
    order = sorted(summary.threats, key=lambda threat: threat.eps == 0)
    found = [_table(summary, threat, seed) for threat in order for seed in summary.seeds]
    return tuple(table for table in found if table.blocks)


def _table(summary: Summary, threat: Threat, seed: int) -> Table:
    here = (threat.text, seed)
    rows = [row for row in summary.rows if (row.threat, row.seed) == here]
    means = [mean for mean in summary.means if (mean.threat, mean.seed) == here]
    changes = {(c.after, c.task, c.tier): c for c in summary.comparisons if (c.threat, c.seed) == here}
    pair = summary.pairs[0] if len(summary.pairs) == 1 and len(summary.models) == 2 else None
    tiers = {tier: [m for m in means if m.tier == tier] for tier in (*TIERS, NOT_ADAPTED)}
    if not (tiers["related"] and tiers["unrelated"]):
        tiers[NOT_ADAPTED] = []  # it would repeat one of them
    blocks, mean_lines = [], {}
    for tier in (tier for tier in tiers if tiers[tier]):
        mean_lines[tier] = _mean_lines(tiers[tier], rows, changes, pair)
        lines = _task_lines([row for row in rows if row.tier == tier], changes, pair)
        if len({line.label for line in lines}) != 1:  # the mean over one task is that task
            lines += mean_lines[tier]
        blocks.append(Block(tier, *_tier_words(summary, tier), tuple(lines)))
    best = "unrelated" if "unrelated" in mean_lines else next(iter(mean_lines), "")
    words = "" if not best else plural(len(tiers[best][0].tasks), f"{best} task" if summary.adapted else "task")
    attacks = tuple(dict.fromkeys(row.attack for row in rows))
    return Table(threat, seed, attacks, pair, tuple(blocks), tuple(mean_lines.get(best, ())), words)


def _tier_words(summary: Summary, tier: str) -> tuple[str, str]:
    return TIER_WORDS[tier] if summary.adapted else ("All tasks", "no model here was adapted on any of them")


def _task_lines(rows: list[Row], changes: Changes, pair: tuple[str, str] | None) -> list[Line]:
    lines = []
    for task in dict.fromkeys(row.task for row in rows):
        of_task = {row.model: row for row in rows if row.task == task}
        for model, before, after in _sides(of_task, pair):
            change = changes.get((model, task, after.tier))
            lines.append(Line(task, model, after.n, before, after, change, mean=False))
    return lines


def _mean_lines(means: list[Mean], rows: list[Row], changes: Changes, pair: tuple[str, str] | None) -> list[Line]:
    lines = []
    for model, before, after in _sides({mean.model: mean for mean in means}, pair):
        n = sum(row.n for row in rows if row.model == model and row.task in after.tasks)
        change = changes.get((model, None, after.tier))
        label = f"mean of {plural(len(after.tasks), 'task')}"
        lines.append(Line(label, model, n, before, after, change, mean=True))
    return lines


def _sides(by_model: dict[str, Scores], pair: tuple[str, str] | None) -> list[tuple[str, Scores | None, Scores]]:
    """(model, before, after) for each line; a pair of which one is missing is shown as what there is."""
    if pair and all(model in by_model for model in pair):
        return [(pair[1], by_model[pair[0]], by_model[pair[1]])]
    return [(model, None, scores) for model, scores in by_model.items()]


def conditions(summary: Summary, table: Table) -> list[tuple[str, str]]:
    """What the numbers of a table hold under, as (noun, sentence)."""
    rows = [row for row in summary.rows if (row.threat, row.seed) == (table.threat.text, table.seed)]
    precisions = dict.fromkeys(row.precision for row in rows)
    return [
        ("Threat", f"{table.threat.words} ({table.threat.text})"),
        ("Attack", "; ".join(_attack_words(summary, attack, table.threat) for attack in table.attacks)),
        ("Examples", examples(rows)),
        ("Seed", f"{table.seed}, computed in {', '.join(precisions)}"),
    ]


def _attack_words(summary: Summary, attack: str, threat: Threat) -> str:
    """``pgd:20 (steps 20, restarts 1)``, with what ``run.json`` says of each attack joined in ``attack``."""
    words = []
    for name in attack.split("+"):
        known = settings_of(summary.settings, name, threat.text)
        facts = [_fact(k, v) for k, v in known.items() if k not in ("name", "threat") and v is not None]
        words.append(f"{name} ({', '.join(facts)})" if facts else name)
    return " + ".join(words)


def _fact(name: str, value: object) -> str:
    if isinstance(value, bool):
        return ("" if value else "no ") + name.replace("_", " ")
    if isinstance(value, float):
        value = f"{255 * value:.3g}/255" if name == "step_size" else f"{value:.3g}"
    return f"{name.replace('_', ' ')} {value}"


def examples(rows: list[Row]) -> str:
    """``10 tasks with 200 examples each``."""
    tasks = {row.task for row in rows}
    sizes = sorted({row.n for row in rows})
    each = plural(sizes[0], "example") if len(sizes) == 1 else f"{sizes[0]:,} to {plural(sizes[-1], 'example')}"
    return f"{plural(len(tasks), 'task')} with {each} each" if len(tasks) > 1 else f"1 task with {each}"


def remarks(summary: Summary) -> list[str]:
    """Flags of rows and notes as plain sentences, equal flags of several rows in one."""
    found: dict[str, list[Row]] = {}
    for row in summary.rows:
        for flag in row.flags:
            found.setdefault(flag, []).append(row)
    sentences = []
    for flag, rows in found.items():
        where = dict.fromkeys(f"{row.model} on {row.task}" for row in rows)
        if len(where) == len({(row.model, row.task) for row in summary.rows}):
            places = "all rows"
        else:
            shown = list(where)[:4]
            places = ", ".join(shown) + (f" and {len(where) - 4} more" if len(where) > 4 else "")
        sentences.append(f"{places}: {flag.rstrip('.')}.")
    return sentences + list(summary.notes)


def title(summary: Summary) -> str:
    """The report's heading."""
    names = list(short_names(summary).values())
    if summary.pairs and len(names) == 2:
        return f"{names[1]} against {names[0]}"
    return names[0] if len(names) == 1 else f"{len(names)} models"


def short_names(summary: Summary) -> dict[str, str]:
    """Model → its name without the folders before it, where that still tells the models apart."""
    short = {model.name: _without_folders(model.name) for model in summary.models}
    clashing = len(set(short.values())) < len(short)
    return {name: name for name in short} if clashing else short


def _without_folders(model: str) -> str:
    """Hub names like ``owner/model`` keep their owner."""
    is_path = model.count("/") > 1 or model.startswith((".", "/"))
    return (Path(model).name or model) if is_path else model
