"""What a study says about a claim: computed from the records, paired on the same images, never typed by hand.

An entry under ``claims`` of a recipe says which of two models should be higher:

    claim     the claim, in words; entries with equal words belong together
    higher    the model that should be higher: levels, or ``unadapted``; beside the levels it may say ``alpha``,
              ``measure``, ``threat`` and ``attack`` of its own
    lower     likewise
    measure   ``robust`` (default) or ``clean``
    tier      of the headline: ``unrelated`` (default), ``related``, ``adapted`` or ``all``; the others are computed too
    threat, attack   of the evaluation; default: its first threat with ε > 0, and every attack
    margin    points by which the one should be higher (default 0); −3 says "at most 3 points lower"
    reason    likely reason, shown where the claim does not hold

Axes that the two models do not name are matched: the difference is then a mean over these pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zsrobust.errors import ConfigError, UnknownName
from zsrobust.report.words import NOT_ADAPTED, TIERS, points, signed_span
from zsrobust.study.results import ALL, CLEAN, EVERY_ATTACK, ROBUST, TIER_NAMES, Cell, Study, level_name, name_of
from zsrobust.study.scores import Measure, Score, difference
from zsrobust.study.selecting import UNADAPTED, axes_in, entries_of, fits, levels_of, one_of

KEYS = ("claim", "measure", "tier", "higher", "lower", "margin", "reason", "threat", "attack")
SIDE_KEYS = ("alpha", "measure", "threat", "attack", UNADAPTED)
HOLDS, REVERSED, FAILS, OPEN, MISSING = (
    "holds",
    "the other way round",
    "does not hold",
    "not told apart",
    "not measured",
)


@dataclass(frozen=True)
class Side:
    """One of the two models of a claim; ``where`` is None for the unadapted one."""

    where: Mapping[str, tuple[str, ...]] | None
    alpha: float | None
    what: str
    threat: str | None
    attack: str

    def words(self, other: Side) -> str:
        """Its levels, and what else tells it from ``other``."""
        named = {} if self.where is None else {axis: level for axis, (level,) in self.where.items()}
        levels = UNADAPTED if self.where is None else name_of(named, None) if named else "adapted"
        facts = [] if self.alpha is None else [f"α = {self.alpha:g}"]
        facts += [self.what] if self.what != other.what else []
        facts += [self.threat] if self.threat != other.threat and self.threat else []
        facts += [self.attack] if self.attack != other.attack else []
        return levels + (f" ({', '.join(facts)})" if facts else "")


@dataclass(frozen=True)
class Entry:
    """A claim of a recipe, checked; ``margin`` is a share."""

    claim: str
    tier: str
    higher: Side
    lower: Side
    margin: float
    reason: str

    @property
    def asks(self) -> str:
        """``robust: TeCoA above standard by more than 10 points``."""
        words = f"{self.higher.words(self.lower)} above {self.lower.words(self.higher)}"
        if self.margin:
            bound = f"{abs(100 * self.margin):g} points"
            words += f" by more than {bound}" if self.margin > 0 else f", or at most {bound} below"
        both = self.higher.what if self.higher.what == self.lower.what else "accuracy"
        return f"{both}: {words}"


@dataclass(frozen=True)
class Verdict:
    """What one tier says; ``kind`` is one of the words above, and without cells only ``kind`` and ``why`` are set."""

    tier: str
    kind: str
    change: Score | None
    higher: Score | None
    lower: Score | None
    why: str = ""

    @property
    def sentence(self) -> str:
        """``holds (+10.7 points, 8.4 to 13.1)``."""
        if self.change is None:
            return f"{self.kind}: {self.why}"
        low, high = self.change.interval
        return f"{self.kind} ({points(self.change.value)} points, {signed_span((low, high))})"


def check(recipe: Mapping[str, Any]) -> list[Entry]:
    """The claims of a recipe.

    Raises:
        ConfigError: one line about the entry that is wrong; the nearest match where a name is.
    """
    axes = axes_in(recipe)
    return [_entry(values, axes) for values in entries_of(recipe, "claims", KEYS, ("claim", "higher", "lower"))]


def _entry(values: Mapping[str, Any], axes: Mapping[str, Sequence[str]]) -> Entry:
    place = f"claim '{values['claim']}'"
    higher, lower = (_side(values, side, axes, f"{place}, {side}") for side in ("higher", "lower"))
    if higher == lower:
        raise ConfigError(f"{place} compares a model with itself")
    if higher.where is not None and lower.where is not None and set(higher.where) != set(lower.where):
        odd = ", ".join(sorted(set(higher.where) ^ set(lower.where)))
        raise ConfigError(f"{place}: only one of higher and lower names {odd}; both must name the same axes")
    margin = values.get("margin", 0)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not -100 < margin < 100:
        raise ConfigError(f"{place}: margin is in points between -100 and 100, not {margin!r}")
    if 0 < abs(margin) < 0.5:
        raise ConfigError(f"{place}: margin is in points, and {margin} is hardly any; write 10 for 10 points")
    return Entry(
        claim=str(values["claim"]),
        tier=one_of(values.get("tier", "unrelated"), TIER_NAMES, f"tier in {place}"),
        higher=higher,
        lower=lower,
        margin=margin / 100,
        reason=str(values.get("reason") or ""),
    )


def _side(values: Mapping[str, Any], side: str, axes: Mapping[str, Sequence[str]], place: str) -> Side:
    given = values[side]
    own: Mapping[str, Any] = {UNADAPTED: True} if given == UNADAPTED else given if isinstance(given, Mapping) else {}
    if not own:
        raise ConfigError(f"{place} is {given!r}: write levels like {{loss: TeCoA}}, or 'unadapted'")
    levels = {axis: level for axis, level in own.items() if axis not in SIDE_KEYS}
    for axis in levels:
        if axis not in axes:
            raise UnknownName(f"key in {place}", level_name(axis), (*axes, *SIDE_KEYS))
    unadapted = bool(own.get(UNADAPTED, False))
    if unadapted and (levels or own.get("alpha") is not None):
        raise ConfigError(f"{place}: the unadapted model has no levels and no alpha")
    where = None if unadapted else levels_of(levels, axes, place)
    for axis, wanted in (where or {}).items():
        if len(wanted) != 1:
            raise ConfigError(f"{place}: one level of '{axis}', not {len(wanted)}")
    attack, threat = (own.get(key, values.get(key)) for key in ("attack", "threat"))
    return Side(
        where=where,
        alpha=_alpha(own.get("alpha"), place),
        what=one_of(own.get("measure", values.get("measure", ROBUST)), (CLEAN, ROBUST), f"measure in {place}"),
        threat=None if threat is None else str(threat),
        attack=EVERY_ATTACK if attack is None else str(attack),
    )


def _alpha(value: Any, place: str) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1):
        return None if value is None else float(value)
    raise ConfigError(f"{place}: alpha must be between 0 and 1, not {value!r}; without it the adapted model is meant")


def tiers_of(study: Study) -> list[str]:
    """The tiers that have tasks."""
    return [tier for tier in TIERS if study.tasks_of(tier)]


def judge(study: Study, entry: Entry) -> list[Verdict]:
    """The verdict of the headline's tier first, then of the other tiers that have tasks."""
    tiers = dict.fromkeys([entry.tier, *tiers_of(study)])
    return [_verdict(study, entry, tier) for tier in tiers]


def _verdict(study: Study, entry: Entry, tier: str) -> Verdict:
    pairs, why = _pairs(study, entry)
    tasks = study.tasks_of(tier)
    if not tasks:
        return _missing(tier, f"there are no {NOT_ADAPTED if tier == ALL else tier} tasks")
    if not pairs:
        return _missing(tier, why)
    measures = _measures(study, entry)
    found = difference(pairs, tasks, measures)
    if found is None:
        return _missing(tier, "a model lacks a task of this tier")
    change, higher, lower = found
    return Verdict(tier, kind_of(change.interval, entry.margin), change, higher, lower, why)


def _missing(tier: str, why: str) -> Verdict:
    return Verdict(tier, MISSING, None, None, None, why)


def kind_of(interval: tuple[float, float], margin: float) -> str:
    """What an interval of the difference says about "more than ``margin``"."""
    low, high = interval
    if low > margin:
        return HOLDS
    if high < 0 <= margin:
        return REVERSED
    return FAILS if high <= margin else OPEN


def _measures(study: Study, entry: Entry) -> tuple[Measure, Measure]:
    known = [threat.text for threat in study.threats]
    found = []
    for side in (entry.higher, entry.lower):
        threat = one_of(side.threat or study.primary.text, known, f"threat in claim '{entry.claim}'")
        attacks = (EVERY_ATTACK, *study.attacks.get(threat, ()))
        attack = one_of(side.attack, attacks, f"attack in claim '{entry.claim}'")
        found.append(Measure(side.what, threat, attack))
    return found[0], found[1]


Place = tuple[frozenset[tuple[str, str]], int | None]
"""The levels that a side leaves open, and the seed."""


def _matching(study: Study, side: Side) -> dict[Place, Cell]:
    found: dict[Place, Cell] = {}
    for cell in study.finished:
        if side.where is None:
            if cell.unadapted:
                found[frozenset(), None] = cell
        elif not cell.unadapted and cell.alpha == side.alpha and fits(cell.levels, side.where):
            rest = frozenset((a, level) for a, level in cell.levels.items() if a not in side.where)
            found[rest, cell.seed] = cell
    return found


def _pairs(study: Study, entry: Entry) -> tuple[list[tuple[Cell, Cell]], str]:
    """Cells that differ in what the claim is about only, the same seeds for each; and what to say about it."""
    first, second = _matching(study, entry.higher), _matching(study, entry.lower)
    for side, other, found in ((entry.higher, entry.lower, first), (entry.lower, entry.higher, second)):
        if not found:
            return [], f"no finished cell of {side.words(other)}"
    if entry.higher.where is None:
        first = {key: next(iter(first.values())) for key in second}
    if entry.lower.where is None:
        second = {key: next(iter(second.values())) for key in first}
    common = [key for key in first if key in second]
    seeds: dict[frozenset[tuple[str, str]], set[int | None]] = {}
    for rest, seed in common:
        seeds.setdefault(rest, set()).add(seed)
    shared = set.intersection(*seeds.values()) if seeds else set()
    pairs = [(first[key], second[key]) for key in common if key[1] in shared]
    if not pairs:
        return [], "no two finished cells differ in this only, with the same seed"
    alone = {rest for rest, _ in first.keys() ^ second.keys()} - set(seeds)
    notes = [f"mean over {len(seeds)} pairs that differ in this only"] if len(seeds) > 1 else []
    notes += [f"{len(alone)} without a partner left out"] if alone else []
    return pairs, ", ".join(notes)
