"""A summary laid out for the eye: the tables that terminal, Markdown and HTML all show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from zsrobust.report.merge import members_of, settings_of, suites_of
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

    A mean and what is before it, or its ``change``, are over the same tasks. ``alarms`` are those that put a robust
    accuracy of this line in doubt, as (model, alarm).
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
    each model has a line of its own. A line of the ``headline`` is about its ``change`` alone where it has one, and
    about ``after`` alone where it has none; its label says over which tasks that is.
    """

    threat: Threat
    seed: int
    pair: tuple[str, str] | None
    blocks: tuple[Block, ...]
    headline: tuple[Line, ...]

    def of_one(self, line: Line) -> bool:
        """Whether a line of the headline is about one of several models, which has to be named then."""
        return self.pair is None or line.change is None

    def only_before(self, line: Line) -> bool:
        """Whether a line has what was before, and nothing after it."""
        return self.pair is not None and line.before is None and line.model == self.pair[0]


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
    noun = f"{best} task" if summary.adapted else "task"
    headline = _headline([mean for mean in tiers[best] if mean.which == ALL] if best else [], rows, changes, pair, noun)
    return Table(threat, seed, pair, tuple(blocks), tuple(headline))


def _headline(
    means: list[Mean], rows: list[Row], changes: Changes, pair: tuple[str, str] | None, noun: str
) -> list[Line]:
    """The changes, and the means of models without one; of a pair its change alone, if it has one."""
    found = {mean.model: (changes.get((mean.model, None, mean.tier, ALL)), mean) for mean in means}
    if pair and pair[1] in found and found[pair[1]][0] is not None:
        found = {pair[1]: found[pair[1]]}
    about = {model: (change or mean).tasks for model, (change, mean) in found.items()}
    lines = []
    for model, (change, mean) in found.items():
        shown = {model} if change is None else {change.before, change.after}
        behind = [row for row in rows if row.model in shown and row.task in about[model]]
        n = sum(row.n for row in behind) if change is None else change.n
        label = tasks_words(about[model], list(about.values()), noun)
        lines.append(Line(label, model, n, None, mean, change, mean=True, alarms=_doubts(behind)))
    return lines


def tasks_words(tasks: tuple[str, ...], sets: Sequence[tuple[str, ...]], noun: str = "task") -> str:
    """``5 tasks``; and what tells them from as many others among ``sets``: ``2 tasks with digits``."""
    words = plural(len(tasks), noun)
    if all(other == tasks for other in sets if len(other) == len(tasks)):
        return words
    return f"{words} with {', '.join(task for task in tasks if not all(task in other for other in sets))}"


def _doubts(rows: Sequence[Row]) -> tuple[tuple[str, Alarm], ...]:
    return tuple((row.model, alarm) for row in rows for alarm in row.flags if alarm.doubt)


def _tier_words(summary: Summary, tier: str) -> tuple[str, str]:
    return TIER_WORDS[tier] if summary.adapted else ("All tasks", "no model here was adapted on any of them")


def _task_lines(rows: list[Row], changes: Changes, pair: tuple[str, str] | None) -> list[Line]:
    lines = []
    for task in dict.fromkeys(row.task for row in rows):
        of_task = {row.model: row for row in rows if row.task == task}
        for model, before, after in _sides(of_task, pair):
            change = changes.get((model, task, after.tier, ALL))
            alarms = _doubts([row for row in (before, after) if row is not None])
            lines.append(Line(task, model, after.n, before, after, change, mean=False, alarms=alarms))
    return lines


def _mean_lines(means: list[Mean], rows: list[Row], changes: Changes, pair: tuple[str, str] | None) -> list[Line]:
    lines = []
    for which in (ALL, WITHOUT_BINARY):
        by_model = {mean.model: mean for mean in means if mean.which == which}
        sets = list(dict.fromkeys(mean.tasks for mean in by_model.values()))
        for model, before, after in _sides(by_model, pair if len(sets) == 1 else None):
            here = [row for row in rows if row.model == model and row.task in after.tasks]
            change = changes.get((model, None, after.tier, which))
            if change is not None and change.tasks != after.tasks:
                change = None
            label = f"mean of {tasks_words(after.tasks, sets)}"
            label += "" if which == ALL else " of 3 or more classes"
            shown = {model} | (set(pair) if before is not None and pair else set())
            alarms = _doubts([row for row in rows if row.model in shown and row.task in after.tasks])
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
        ("Examples", examples(summary, rows)),
        ("Seed", f"{table.seed}, computed in {', '.join(precisions)}"),
    ]


def _attacks_words(summary: Summary, table: Table, rows: Sequence[Row]) -> str:
    """All attacks of a table, those that not all rows have with where they belong."""
    asked = [suites_of(summary.settings, row) for row in rows]
    having = {name: [row for row, suites in zip(rows, asked, strict=True) if name in suites] for name in chain(*asked)}
    words = [_attack_words(summary, name, table.threat, _whose(those, rows)) for name, those in having.items()]
    return (" + " if len(set(asked)) == 1 else "; ").join(words)


def _whose(having: Sequence[Row], rows: Sequence[Row]) -> str:
    """Empty where all rows have an attack, else for example ``on cifar10, digits``."""
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


def examples(summary: Summary, rows: Sequence[Row]) -> str:
    """``10 tasks with 200 examples each``, for each model where that is not the same for all of them."""
    alike: dict[frozenset[tuple[str, int]], list[str]] = {}
    for model, name in short_names(summary).items():
        if sizes := frozenset((row.task, row.n) for row in rows if row.model == model):
            alike.setdefault(sizes, []).append(name)
    if len(alike) == 1:
        return _sizes_words(*alike)
    return "; ".join(f"{_sizes_words(sizes)} ({', '.join(names)})" for sizes, names in alike.items())


def _sizes_words(of_tasks: frozenset[tuple[str, int]]) -> str:
    sizes = sorted({n for _, n in of_tasks})
    each = plural(sizes[0], "example") if len(sizes) == 1 else f"{sizes[0]:,} to {plural(sizes[-1], 'example')}"
    return f"{plural(len(of_tasks), 'task')} with {each} each" if len(of_tasks) > 1 else f"1 task with {each}"


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


def seeds_in_doubt(summary: Summary, a: AcrossSeeds) -> bool:
    """Whether a number behind it is in doubt."""
    places = {(a.model, a.threat, seed, task) for seed in a.seeds for task in a.tasks}
    return any(_doubts([row]) for row in summary.rows if (row.model, row.threat, row.seed, row.task) in places)


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
