"""A summary laid out for the eye: the tables that terminal, Markdown and HTML all show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from zsrobust.report.merge import members_of, settings_of
from zsrobust.report.results import ALL, WITHOUT_BINARY, AcrossSeeds, Alarm, Comparison, Mean, Row
from zsrobust.report.summary import Summary
from zsrobust.report.words import NOT_ADAPTED, TIER_WORDS, TIERS, Threat, plural
from zsrobust.statistics import Interval

Scores = TypeVar("Scores", Row, Mean)
Changes = dict[tuple[str, str | None, str, str], Comparison]

# Of an attack's settings these say where it belongs, not how strong it is.
_NOT_FACTS = ("name", "threat", "suite", "tasks", "gradient", "oblivious")
# A suite has many settings, published with it; these are its price.
_BUDGET = ("steps", "queries", "restarts", "targets", "samples")


@dataclass(frozen=True)
class Line:
    """One line of a table: a task or the mean over a tier; ``before`` is None if there is nothing before.

    ``alarms`` are those that put a robust accuracy of this line in doubt, as (model, alarm).
    """

    label: str
    model: str
    n: int
    before: Row | Mean | None
    after: Row | Mean
    change: Comparison | None
    mean: bool
    alarms: tuple[tuple[str, Alarm], ...]


@dataclass(frozen=True)
class Remark:
    """An alarm with all the places it is about, ``places`` in words; ``more`` tables say it with other numbers."""

    places: str
    alarm: Alarm
    more: int = 0

    @property
    def sentence(self) -> str:
        """For a list, with its full stop."""
        weight = f" ({self.alarm.name}, {self.alarm.strength})" if self.alarm.name and self.alarm.doubt else ""
        likewise = f" Likewise in {plural(self.more, 'other table')}." if self.more else ""
        return f"{self.places}: {self.alarm.text.rstrip('.')}{weight}.{likewise}"


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
    changes = {(c.after, c.task, c.tier, c.which): c for c in summary.comparisons if (c.threat, c.seed) == here}
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
    headline = [line for line in mean_lines.get(best, ()) if isinstance(line.after, Mean) and line.after.which == ALL]
    words = "" if not best else plural(len(tiers[best][0].tasks), f"{best} task" if summary.adapted else "task")
    attacks = tuple(dict.fromkeys(row.attack for row in rows))
    return Table(threat, seed, attacks, pair, tuple(blocks), tuple(headline), words)


def _tier_words(summary: Summary, tier: str) -> tuple[str, str]:
    return TIER_WORDS[tier] if summary.adapted else ("All tasks", "no model here was adapted on any of them")


def _task_lines(rows: list[Row], changes: Changes, pair: tuple[str, str] | None) -> list[Line]:
    lines = []
    for task in dict.fromkeys(row.task for row in rows):
        of_task = {row.model: row for row in rows if row.task == task}
        for model, before, after in _sides(of_task, pair):
            change = changes.get((model, task, after.tier, ALL))
            alarms = [(row.model, a) for row in (before, after) if row is not None for a in row.flags if a.doubt]
            lines.append(Line(task, model, after.n, before, after, change, mean=False, alarms=tuple(alarms)))
    return lines


def _mean_lines(means: list[Mean], rows: list[Row], changes: Changes, pair: tuple[str, str] | None) -> list[Line]:
    lines = []
    for which in (ALL, WITHOUT_BINARY):
        for model, before, after in _sides({mean.model: mean for mean in means if mean.which == which}, pair):
            here = [row for row in rows if row.model == model and row.task in after.tasks]
            change = changes.get((model, None, after.tier, which))
            label = f"mean of {plural(len(after.tasks), 'task')}"
            label += "" if which == ALL else " of 3 or more classes"
            shown = {model} | (set(pair) if before is not None and pair else set())
            both = [row for row in rows if row.model in shown and row.task in after.tasks]
            alarms = tuple((row.model, alarm) for row in both for alarm in row.flags if alarm.doubt)
            lines.append(Line(label, model, sum(r.n for r in here), before, after, change, mean=True, alarms=alarms))
    return lines


def _sides(by_model: dict[str, Scores], pair: tuple[str, str] | None) -> list[tuple[str, Scores | None, Scores]]:
    """(model, before, after) for each line; a pair of which one is missing is shown as what there is."""
    if pair and all(model in by_model for model in pair):
        return [(pair[1], by_model[pair[0]], by_model[pair[1]])]
    return [(model, None, scores) for model, scores in by_model.items()]


def conditions(summary: Summary, table: Table) -> list[tuple[str, str]]:
    """What the numbers of a table hold under, as (noun, sentence)."""
    rows = rows_of(summary, table)
    precisions = dict.fromkeys(row.precision for row in rows)
    return [
        ("Threat", f"{table.threat.words} ({table.threat.text})"),
        ("Attack", _attacks_words(summary, table, rows)),
        ("Examples", examples(rows)),
        ("Seed", f"{table.seed}, computed in {', '.join(precisions)}"),
    ]


def _attacks_words(summary: Summary, table: Table, rows: Sequence[Row]) -> str:
    """All attacks of a table, those that not all rows have with where they belong."""
    names = list(dict.fromkeys(name for attack in table.attacks for name in attack.split("+")))
    words = [_attack_words(summary, name, table.threat, _whose(name, rows)) for name in names]
    return (" + " if len(table.attacks) == 1 else "; ").join(words)


def _whose(attack: str, rows: Sequence[Row]) -> str:
    """Empty where all rows have the attack, else for example ``on cifar10, digits``."""
    having = [row for row in rows if attack in row.attack.split("+")]
    for word, noun in (("on", "task"), ("of", "model")):
        names = dict.fromkeys(getattr(row, noun) for row in having)
        if len(having) < len(rows) and having == [row for row in rows if getattr(row, noun) in names]:
            return f" {word} {', '.join(names)}"
    return "" if len(having) == len(rows) else " on some rows"


def _attack_words(summary: Summary, name: str, threat: Threat, whose: str) -> str:
    """``pgd:20 (steps 20, restarts 1)``, with what ``run.json`` says of it, or of each attack of a suite."""
    members = members_of(summary.settings, name, threat.text)
    facts = {m.removeprefix(f"{name}/"): settings_of(summary.settings, m, threat.text) for m in members}
    if members == [name]:
        return _with_facts(name, facts[name]) + whose
    budgets = [_with_facts(m, {k: v for k, v in known.items() if k in _BUDGET}) for m, known in facts.items()]
    return f"{name}{whose}: {', '.join(budgets)}"


def _with_facts(name: str, settings: Mapping[str, Any]) -> str:
    facts = [_fact(k, v) for k, v in settings.items() if k not in _NOT_FACTS and v is not None]
    return f"{name} ({', '.join(facts)})" if facts else name


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


def rows_of(summary: Summary, table: Table) -> list[Row]:
    """The rows of a table, task by task."""
    rows = [row for row in summary.rows if (row.threat, row.seed) == (table.threat.text, table.seed)]
    tasks = [row.task for row in rows]
    return sorted(rows, key=lambda row: tasks.index(row.task))


def two_class_rows(summary: Summary, table: Table) -> list[Row]:
    """Those of them that have a balanced accuracy."""
    return [row for row in rows_of(summary, table) if row.clean_auroc is not None]


def defended_rows(summary: Summary, table: Table) -> list[Row]:
    """Those of them on which an attack ignored a test-time defence: they have two numbers."""
    return [row for row in rows_of(summary, table) if row.defended is not None]


def two_numbers(row: Row) -> list[tuple[float | None, Interval | None]]:
    """(accuracy, interval) under the attacks that ignore the defence, and under those that go through it."""
    both = row.defended
    if both is None:
        return []
    return [(both.oblivious, both.oblivious_interval), (both.adaptive, both.adaptive_interval)]


def broken_by(row: Row) -> str:
    """``pgd:20 broke 12 of 40, square broke 1 of 28``, within one row."""
    return ", ".join(f"{a.attack} broke {a.broken} of {a.attacked}" for a in row.by_attack)


def seed_lines(summary: Summary) -> list[AcrossSeeds]:
    """What all seeds say together, without the means that would repeat another one."""
    tiers = {a.tier for a in summary.across_seeds}
    return [a for a in summary.across_seeds if a.tier != NOT_ADAPTED or {"related", "unrelated"} <= tiers]


def alarms(summary: Summary) -> list[Remark]:
    """The alarms of all rows: equal ones of several rows in one, and of those that differ in numbers the first."""
    equal: dict[tuple[str | None, str], tuple[Alarm, list[Row]]] = {}
    for row in summary.rows:
        for alarm in row.flags:
            equal.setdefault((alarm.name, alarm.text), (alarm, []))[1].append(row)
    alike: dict[tuple[object, ...], list[tuple[Alarm, list[Row]]]] = {}
    for alarm, rows in equal.values():
        where = frozenset((row.model, row.task) for row in rows)
        alike.setdefault((alarm.name or alarm.text, where), []).append((alarm, rows))
    return [Remark(_places(summary, group[0][1]), group[0][0], len(group) - 1) for group in alike.values()]


def _places(summary: Summary, rows: Sequence[Row]) -> str:
    """``tiny on cifar10, digits under linf:4/255:native``: what tells these rows from the others."""
    where = list(dict.fromkeys(f"{row.model} on {row.task}" for row in rows))
    if len(where) == len({(row.model, row.task) for row in summary.rows}):
        places = "all rows"
    else:
        places = ", ".join(where[:4]) + (f" and {len(where) - 4} more" if len(where) > 4 else "")
    threats, seeds = {row.threat for row in rows}, {row.seed for row in rows}
    places += f" under {threats.pop()}" if len(threats) == 1 < len(summary.threats) else ""
    return places + (f", seed {seeds.pop()}" if len(seeds) == 1 < len(summary.seeds) else "")


def remarks(summary: Summary) -> list[str]:
    """Alarms, the ones that put a number in doubt first, and notes: plain sentences."""
    return [r.sentence for r in sorted(alarms(summary), key=lambda r: not r.alarm.doubt)] + list(summary.notes)


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
