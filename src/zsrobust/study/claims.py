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

Both name a level of every axis that has several. Cells of the same seed are a pair; the unadapted model has no seed and
goes with each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zsrobust.errors import ConfigError
from zsrobust.report.words import points, signed_span
from zsrobust.study.results import CLEAN, EVERY_ATTACK, ROBUST, TIER_NAMES, Cell, Study, level_name, name_of
from zsrobust.study.scores import Measure, Score, difference
from zsrobust.study.selecting import UNADAPTED, axes_in, entries_of, one_of

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

    where: Mapping[str, str] | None
    alpha: float | None
    what: str
    threat: str | None
    attack: str

    def words(self, other: Side) -> str:
        """Its levels, and what else tells it from ``other``."""
        levels = UNADAPTED if self.where is None else name_of(self.where) if self.where else "adapted"
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
    """What one tier says, ``verdict`` in one of the words above; without cells, ``note`` says why there is none."""

    tier: str
    verdict: str
    change: Score | None
    higher: Score | None
    lower: Score | None
    note: str = ""

    @property
    def sentence(self) -> str:
        """``holds (+10.7 points, 8.4 to 13.1)``."""
        if self.change is None:
            return f"{self.verdict}: {self.note}"
        low, high = self.change.interval
        return f"{self.verdict} ({points(self.change.value)} points, {signed_span((low, high))})"


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
    named = {str(key): level_name(level) for key, level in own.items() if key not in SIDE_KEYS}
    for axis, level in named.items():
        one_of(axis, (*axes, *SIDE_KEYS), f"key in {place}")
        one_of(level, axes[axis], f"level of '{axis}' in {place}")
    unadapted = bool(own.get(UNADAPTED, False))
    if unadapted and (named or own.get("alpha") is not None):
        raise ConfigError(f"{place}: the unadapted model has no levels and no alpha")
    left = [axis for axis, levels in axes.items() if len(levels) > 1 and axis not in named]
    if left and not unadapted:
        raise ConfigError(f"{place} leaves {', '.join(left)} open: name one level of it")
    attack, threat = (own.get(key, values.get(key)) for key in ("attack", "threat"))
    return Side(
        where=None if unadapted else named,
        alpha=_alpha(own.get("alpha"), place),
        what=one_of(own.get("measure", values.get("measure", ROBUST)), (CLEAN, ROBUST), f"measure in {place}"),
        threat=None if threat is None else str(threat),
        attack=EVERY_ATTACK if attack is None else str(attack),
    )


def _alpha(value: Any, place: str) -> float | None:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1):
        return None if value is None else float(value)
    raise ConfigError(f"{place}: alpha must be between 0 and 1, not {value!r}; without it the adapted model is meant")


def judge(study: Study, entry: Entry, *, comparisons: int = 1) -> list[Verdict]:
    """The verdict of the headline's tier, then of the other tiers that have tasks; without models to compare only that.

    Intervals of differences are corrected for ``comparisons``: how many are judged together.

    Raises:
        ConfigError: a side fits several models.
        UnknownName: a threat or an attack that the study does not have.
    """
    measures = _measure(study, entry, entry.higher), _measure(study, entry, entry.lower)
    pairs, why = _pairs(study, entry)
    if not pairs:
        return [Verdict(entry.tier, MISSING, None, None, None, why)]
    tiers = dict.fromkeys([entry.tier, *study.tiers])
    return [_verdict(study, entry, tier, measures, pairs, comparisons) for tier in tiers]


def _verdict(
    study: Study,
    entry: Entry,
    tier: str,
    measures: tuple[Measure, Measure],
    pairs: Sequence[tuple[Cell, Cell]],
    comparisons: int,
) -> Verdict:
    tasks = study.tasks_of(tier)
    found = difference(pairs, tasks, measures, comparisons=comparisons)
    if found is None:
        lacking = "a model lacks a task of this tier" if tasks else f"there are no {tier} tasks"
        return Verdict(tier, MISSING, None, None, None, lacking)
    return Verdict(tier, kind_of(found[0].interval, entry.margin), *found)


def kind_of(interval: tuple[float, float], margin: float) -> str:
    """What an interval of the difference says about "more than ``margin``"."""
    low, high = interval
    if low > margin:
        return HOLDS
    if high < 0 <= margin:
        return REVERSED
    return FAILS if high < margin else OPEN


def _measure(study: Study, entry: Entry, side: Side) -> Measure:
    place = f"in claim '{entry.claim}'"
    threat = one_of(side.threat or study.primary.text, [t.text for t in study.threats], f"threat {place}")
    attack = one_of(side.attack, (EVERY_ATTACK, *study.attacks.get(threat, ())), f"attack {place}")
    return Measure(side.what, threat, attack)


def _matching(study: Study, entry: Entry, side: Side) -> dict[int | None, Cell]:
    """Seed → finished cell."""
    found: dict[int | None, Cell] = {}
    for cell in study.finished:
        levels = {} if cell.unadapted else {axis: cell.levels.get(axis) for axis in side.where or {}}
        if cell.unadapted == (side.where is None) and cell.alpha == side.alpha and levels == (side.where or {}):
            if cell.seed in found:
                raise ConfigError(
                    f"claim '{entry.claim}': both {found[cell.seed].name} and {cell.name} fit {side.where}"
                )
            found[cell.seed] = cell
    return found


def _pairs(study: Study, entry: Entry) -> tuple[list[tuple[Cell, Cell]], str]:
    """A pair for each seed that both sides have, or why there is none."""
    first, second = _matching(study, entry, entry.higher), _matching(study, entry, entry.lower)
    for side, other, found in ((entry.higher, entry.lower, first), (entry.lower, entry.higher, second)):
        if not found:
            return [], f"no finished cell of {side.words(other)}"
    if entry.higher.where is None:
        first = dict.fromkeys(second, *first.values())
    if entry.lower.where is None:
        second = dict.fromkeys(first, *second.values())
    pairs = [(first[seed], second[seed]) for seed in first if seed in second]
    return pairs, "" if pairs else "no finished cells of both with the same seed"
