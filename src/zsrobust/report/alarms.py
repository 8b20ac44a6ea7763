"""What the records themselves say against a number: attacks that did not reach the model, or were too weak.

An alarm is "proved" where no correct measurement could look like this, "measured" where chance cannot explain it, and
"suspected" where an honest model might look like this too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from zsrobust.records import Cell
from zsrobust.report.count import Attacks, Counted, Measured
from zsrobust.report.load import Task
from zsrobust.report.merge import Evidence, Suite, settings_of
from zsrobust.report.results import Alarm
from zsrobust.report.words import Threat, p_words, percent, plural
from zsrobust.statistics import at_least, mcnemar, wilson

Settings = Mapping[str, Mapping[str, Any]]
"""Attack → what ``run.json`` says of it."""

# Fewer attacked examples than this can all survive by luck; rises smaller than this come from random starts.
_FEW = 20
_RISE = 0.01
# Of an honest model's images, Square breaks up to 0.5 % after APGD and FAB: chance must not explain more than that.
# One image is no evidence whatever the sample; two can be at best a hint.
HONEST_BLACK_BOX = 0.005
BLACK_BOX_SHARE = 0.02
BLACK_BOX_MEASURED = (3, 0.001)
BLACK_BOX_SUSPECTED = (2, 0.01)
# Honest CLIP models lose 0 to 4 points from 50 steps on the cross-entropy to an ensemble.
GRADIENT_STEPS = 50
GRADIENT_POINTS = 0.10
GRADIENT_P = 0.01
# From here on nearly every photograph can be made into one of another class; from half the range on every image can
# be made plain grey, and one grey image has one answer.
HUGE = {"linf": 32 / 255, "l2": 5.0}
ALL_GREY = 0.5
STILL_STANDING = 0.05


def alarms_of(
    evidence: Evidence, task: Task, threat: Threat, cell: Cell, counted: Counted, attacks: Attacks
) -> list[Alarm]:
    """All that can be said about one row alone; the run's own flags come last.

    Args:
        evidence: All runs.
        task: The row's task.
        threat: The row's threat.
        cell: The row's model, task and seed.
        counted: The row's examples.
        attacks: Their records.
    """
    settings = {name: settings_of(evidence.settings, name, threat.text) for name in attacks}
    found = [
        _incomplete(task, counted),
        _unreadable(task),
        _precision(evidence.precision[cell]),
        _nothing_broken(evidence, cell, threat, counted),
        _adapted_on_these(evidence, cell.model, task),
        oblivious_only(settings),
        black_box_stronger(attacks, settings),
        weak_gradient(attacks, evidence.suites[cell, threat.text], settings, len(counted.ids)),
    ]
    declared = [Alarm(f.name, f.strength, f.text, f.evidence) for f in evidence.flags if f.fits(cell, threat.text)]
    return [alarm for alarm in found if alarm is not None] + declared


def _incomplete(task: Task, counted: Counted) -> Alarm | None:
    n = len(counted.ids)
    if n >= task.n:
        return None
    return Alarm(
        "incomplete", "measured", f"incomplete: {n} of {plural(task.n, 'example')}", {"finished": n, "asked": task.n}
    )


def _unreadable(task: Task) -> Alarm | None:
    n = len(task.bad_images)
    if not n:
        return None
    return Alarm(
        "unreadable-images", "proved", f"{plural(n, 'image')} could not be read and were left out", {"images": n}
    )


def _precision(precision: str) -> Alarm | None:
    if precision == "float32":
        return None
    return Alarm("precision", "proved", f"computed in {precision}, not float32", {"precision": precision})


def _nothing_broken(evidence: Evidence, cell: Cell, threat: Threat, counted: Counted) -> Alarm | None:
    attacked, survived = int(counted.clean.sum()), int(counted.robust.sum())
    if threat.eps == 0 or attacked != survived or attacked < _FEW or _breaks_elsewhere(evidence, cell, threat):
        return None
    text = f"not one of {attacked} attacked images was broken: check that the attack reaches the pixels"
    return Alarm("nothing-broken", "suspected", text, {"attacked": attacked})


def _breaks_elsewhere(evidence: Evidence, cell: Cell, threat: Threat) -> bool:
    """Whether the same attacks broke an image of this model on any task, so that they do reach its pixels."""
    return any(
        not record.correct
        for (other, text), attacks in evidence.attacked.items()
        if (other.model, other.seed, text) == (cell.model, cell.seed, threat.text)
        for records in attacks.values()
        for record in records.values()
    )


def _adapted_on_these(evidence: Evidence, model: str, task: Task) -> Alarm | None:
    stories = (one.provenance.get("adaptation") for one in evidence.models if one.name == model)
    if not any(isinstance(s, Mapping) and s.get("task_fingerprint") == task.fingerprint for s in stories):
        return None
    text = "the model was adapted on exactly these images"
    return Alarm("adapted-on-these-images", "proved", text, {"task_fingerprint": task.fingerprint})


def oblivious_only(settings: Settings) -> Alarm | None:
    """Every attack ignored the model's test-time defence, or came from another model: none went through it.

    Args:
        settings: Of each attack; ``oblivious`` true says that it searched on the undefended model, ``transfer`` true
            that it climbed another one.
    """
    ignored = [name for name, told in settings.items() if told.get("oblivious") is True]
    transfers = [name for name, told in settings.items() if told.get("transfer") is True]
    if not ignored or len(ignored) + len(transfers) < len(settings):
        return None
    who = ", ".join(settings)
    where = "without its defence or from another model" if transfers else "without its defence"
    text = (
        f"attacked only {where} ({who}): whoever knows the defence attacks through it, and was not tried. "
        f"Add an attack on the model as it is, such as {ignored[0].partition(':')[2]}"
    )
    return Alarm("oblivious-only", "proved", text, {"attacks": who})


def black_box_stronger(attacks: Attacks, settings: Settings) -> Alarm | None:
    """Attacks without the model's gradient break what all attacks with it left standing.

    Args:
        attacks: Records of finished examples of one cell under one threat.
        settings: Of each attack; ``gradient`` false or ``transfer`` true makes it a black-box attack, ``gradient`` true
            a white-box one, and one of which neither is said is left out.
    """
    black = [a for a in attacks if settings[a].get("transfer") is True or settings[a].get("gradient") is False]
    white = [a for a in attacks if a not in black and settings[a].get("gradient") is True]
    if not black or not white:
        return None
    attacked = len({e for records in attacks.values() for e in records})
    standing = [e for e in attacks[white[0]] if all(e in attacks[a] and attacks[a][e].correct for a in white)]
    given = [e for e in standing if any(e in attacks[a] for a in black)]
    by = {a: [e for e in given if e in attacks[a] and not attacks[a][e].correct] for a in black}
    broken = len({e for examples in by.values() for e in examples})
    strength = _black_box_strength(broken, len(given), attacked)
    if strength is None:
        return None
    who = " and ".join(a for a in black if by[a])
    text = (
        f"{who}, without the model's gradient, broke {broken} of the {plural(len(given), 'image')} that every attack "
        "with it left standing: the gradient misleads those attacks, so a better one may break more"
    )
    figures = {"attacked": attacked, "white_box_left_standing": len(given), "black_box_broke": broken}
    return Alarm("black-box-stronger", strength, text, figures | {"black_box": who, "white_box": ", ".join(white)})


def _black_box_strength(broken: int, given: int, attacked: int) -> str | None:
    if broken == 0 or broken < BLACK_BOX_SHARE * given:
        return None
    chance = at_least(broken, attacked, HONEST_BLACK_BOX)
    for strength, (least, largest_chance) in (("measured", BLACK_BOX_MEASURED), ("suspected", BLACK_BOX_SUSPECTED)):
        if broken >= least and chance < largest_chance:
            return strength
    return None


def weak_gradient(attacks: Attacks, suites: Sequence[Suite], settings: Settings, n: int) -> Alarm | None:
    """Attacks of several kinds together go far below many steps on the cross-entropy, on the same examples.

    Args:
        attacks: Records of finished examples of one cell under one threat.
        suites: What the attacks belong to; those by themselves are taken together.
        settings: Of each attack.
        n: Examples of the row, those wrong when clean too.
    """
    kinds = {attack: _kind(suite, attack) for suite in suites for attack in suite.attacks}
    references = [
        attack
        for attack, kind in kinds.items()
        if (kind.split(":")[0] == "pgd" or kind.startswith("apgd:ce"))
        and isinstance(steps := settings[attack].get("steps"), int)
        and steps >= GRADIENT_STEPS
    ]
    lone = tuple(suite.name for suite in suites if suite.attacks == (suite.name,))
    ensembles = [s for s in suites if s.attacks != (s.name,)] + ([Suite("+".join(lone), lone)] if lone else [])
    ensembles = [s for s in ensembles if len({kinds[attack].split(":")[0] for attack in s.attacks}) > 1]
    for suite in ensembles:
        gaps = [_gap(attacks, reference, suite, n) for reference in references]
        # The strongest reference is the fairest, so the suite must be far below every one of them.
        far = [gap for gap in gaps if gap is not None]
        if far and len(far) == len(gaps):
            return min(far, key=lambda gap: float(gap.evidence["points"]))
    return None


def _kind(suite: Suite, attack: str) -> str:
    """``autoattack/apgd:ce`` → ``apgd:ce``."""
    return attack.removeprefix(f"{suite.name}/")


def _gap(attacks: Attacks, reference: str, suite: Suite, n: int) -> Alarm | None:
    alone = {e: record.correct for e, record in attacks[reference].items()}
    together = {e: all(attacks[a][e].correct for a in suite.attacks if e in attacks[a]) for e in alone}
    only_together = sum(alone[e] and not together[e] for e in alone)
    only_alone = sum(together[e] and not alone[e] for e in alone)
    points = (only_together - only_alone) / max(n, 1)
    p = mcnemar(only_alone, only_together)
    if points < GRADIENT_POINTS or p >= GRADIENT_P:
        return None
    high, low = sum(alone.values()) / n, sum(together.values()) / n
    text = (
        f"{suite.name} leaves {percent(low)} % where {reference} alone leaves {percent(high)} % of the same examples "
        f"({p_words(p)}): the gradient of the cross-entropy is weak or masked, so attacks that use it say little"
    )
    return Alarm(
        "weak-gradient",
        "measured",
        text,
        {
            "reference": reference,
            "reference_robust": high,
            "suite": suite.name,
            "suite_robust": low,
            "points": points,
            "n": n,
            "broken_by_suite_only": only_together,
            "broken_by_reference_only": only_alone,
            "p": p,
        },
    )


def curve_alarms(measured: Sequence[Measured]) -> list[list[Alarm]]:
    """What rows of several ε say against each other, and the largest ε against itself: a list for each row."""
    found: list[list[Alarm]] = [[] for _ in measured]
    curves: dict[tuple[str, str, str, str, int, str], list[int]] = {}
    for i, m in enumerate(measured):
        row = m.row
        curves.setdefault((row.model, row.task, row.norm, row.space, row.seed, row.attack), []).append(i)
    for curve in curves.values():
        curve.sort(key=lambda i: measured[i].row.eps)
        for lower, higher in pairwise(curve):
            found[higher] += filter(None, [rises(measured[lower], measured[higher])])
        found[curve[-1]] += filter(None, [does_not_fall(measured[curve[-1]])])
    return found


def rises(lower: Measured, higher: Measured) -> Alarm | None:
    """A larger ε allows all that the smaller one does, so on the same examples no perfect attack gets worse."""
    same = np.array_equal(np.sort(lower.counted.ids), np.sort(higher.counted.ids))
    if not same or higher.row.robust <= lower.row.robust + _RISE:
        return None
    low, high = (f"{percent(m.row.robust)} % at {m.row.threat}" for m in (lower, higher))
    text = f"robust accuracy rises from {low} to {high}, so the attack is too weak"
    figures = {"robust_at_smaller_eps": lower.row.robust, "robust": higher.row.robust, "smaller": lower.row.threat}
    return Alarm("rises-with-eps", "proved", text, figures)


def does_not_fall(widest: Measured) -> Alarm | None:
    """Robust accuracy that stays above chance although the ε is larger than what tells most images apart."""
    row, labels = widest.row, widest.counted.labels
    if row.eps < HUGE.get(row.norm, np.inf):
        return None
    constant = float(np.unique(labels, return_counts=True)[1].max()) / row.n  # what one answer for all would get
    figures = {"robust": row.robust, "largest_class": constant, "eps": row.eps}
    if row.norm == "linf" and row.eps >= ALL_GREY and row.robust > constant:
        text = (
            f"robust accuracy is {percent(row.robust)} % at {row.threat}, where every image can be made plain grey and "
            f"at most {percent(constant)} % can be right: the attack is too weak"
        )
        return Alarm("does-not-fall", "proved", text, figures)
    if wilson(round(row.robust * row.n), row.n)[0] <= max(STILL_STANDING, constant):
        return None
    text = (
        f"robust accuracy is still {percent(row.robust)} % at {row.threat}, where an attack should break nearly "
        "everything unless the classes differ by more than that: the attack may be too weak"
    )
    return Alarm("does-not-fall", "measured" if row.norm == "linf" else "suspected", text, figures)
