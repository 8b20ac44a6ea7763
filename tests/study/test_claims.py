"""Verdicts: computed, paired, and never more certain than the records."""

from __future__ import annotations

import pytest
from tests.study.fake_study import write_study

from zsrobust.errors import ConfigError, UnknownName
from zsrobust.study import claims
from zsrobust.study.results import load

AXES = {"loss": {"TeCoA": {}, "twin": {}, "standard": {}}, "way": {"fine-tuning": {}, "token prompt": {}}}
FINE = {"way": "fine-tuning"}
WEAK = {"claim": "c", "higher": {"loss": "TeCoA", **FINE}, "lower": {"loss": "standard", **FINE}}


def recipe(*entries):
    return {"axes": AXES, "seeds": [0, 1], "claims": list(entries)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    def strength(levels, _):
        if not levels:
            return 0.9, 1.0
        scale = {"TeCoA": 9.0, "twin": 9.0, "standard": 2.0}[levels["loss"]]
        return (0.8, scale) if levels["way"] == "fine-tuning" else (0.7, 0.8 * scale)

    folder = tmp_path_factory.mktemp("studies") / "claims"
    return load(write_study(folder, recipe(), strength, n=80, tasks=("world-compositions", "cifar10"), jitter=0.003))


def verdicts(study, **entry):
    (checked,) = claims.check(recipe({"claim": "c", **entry}))
    return claims.judge(study, checked)


def test_the_stronger_model_wins_in_every_tier_and_the_weaker_one_loses(study):
    first, second = {"loss": "TeCoA", **FINE}, {"loss": "standard", **FINE}
    forward, backward = verdicts(study, higher=first, lower=second), verdicts(study, higher=second, lower=first)
    assert [v.tier for v in forward] == ["unrelated", "adapted"]
    assert {v.verdict for v in forward} == {claims.HOLDS}
    assert {v.verdict for v in backward} == {claims.REVERSED}
    for one, other in zip(forward, backward, strict=True):
        assert one.change.value == pytest.approx(-other.change.value)
        assert one.change.value == pytest.approx(one.higher.value - one.lower.value)
        assert one.change.seeds == (0, 1)
        assert one.change.n == 80


def test_equal_models_are_not_told_apart(study):
    (verdict, _) = verdicts(study, higher={"loss": "TeCoA", **FINE}, lower={"loss": "twin", **FINE})
    assert verdict.verdict == claims.OPEN
    assert verdict.change.interval[0] < 0 < verdict.change.interval[1]


def test_a_margin_is_in_points(study):
    pair = {"higher": {"loss": "TeCoA", **FINE}, "lower": {"loss": "standard", **FINE}}
    change = verdicts(study, **pair)[0].change
    low, high = (100 * end for end in change.interval)
    assert verdicts(study, **pair, margin=low - 1)[0].verdict == claims.HOLDS
    assert verdicts(study, **pair, margin=(low + high) / 2)[0].verdict == claims.OPEN
    assert verdicts(study, **pair, margin=high + 1)[0].verdict == claims.FAILS


def test_several_comparisons_widen_the_difference_and_not_the_means(study):
    pair = {"claim": "c", "higher": {"loss": "TeCoA", **FINE}, "lower": {"loss": "standard", **FINE}}
    (entry,) = claims.check({**study.recipe, "claims": [pair]})
    alone, together = (claims.judge(study, entry, comparisons=count)[0] for count in (1, 12))
    assert together.change.interval[0] < alone.change.interval[0] < alone.change.interval[1]
    assert together.change.interval[1] > alone.change.interval[1]
    assert (together.higher, together.lower) == (alone.higher, alone.lower)
    assert together.change.value == alone.change.value


@pytest.mark.parametrize(
    ("interval", "margin", "kind"),
    [
        ((0.01, 0.05), 0.0, claims.HOLDS),
        ((-0.01, 0.05), 0.0, claims.OPEN),
        ((-0.05, -0.01), 0.0, claims.REVERSED),
        ((-0.02, 0.01), -0.03, claims.HOLDS),  # at most 3 points lower
        ((-0.06, -0.04), -0.03, claims.FAILS),
        ((-0.015, 0.0), 0.0, claims.OPEN),
    ],
)
def test_words_of_an_interval(interval, margin, kind):
    assert claims.kind_of(interval, margin) == kind


def test_one_model_can_be_compared_with_itself_in_another_measure(study):
    (verdict, _) = verdicts(study, higher={"unadapted": True, "measure": "clean"}, lower="unadapted", margin=10)
    assert verdict.verdict == claims.HOLDS
    assert verdict.change.seeds == ()
    assert verdict.change.value == pytest.approx(verdict.higher.value - verdict.lower.value)


def test_what_was_not_measured_has_no_verdict(study):
    (verdict, *_) = verdicts(study, higher={"loss": "TeCoA", **FINE, "alpha": 0.5}, lower={"loss": "TeCoA", **FINE})
    assert verdict.verdict == claims.MISSING
    assert verdict.sentence == "not measured: no finished cell of TeCoA, fine-tuning (α = 0.5)"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"higher": {"loss": "TeCoAA"}}, UnknownName, "did you mean 'TeCoA'"),
        ({"higher": {"los": "TeCoA"}}, UnknownName, "did you mean 'loss'"),
        ({"hihger": {}}, UnknownName, "did you mean 'higher'"),
        ({"lower": {"loss": "TeCoA", **FINE}}, ConfigError, "compares a model with itself"),
        ({"lower": {"loss": "standard"}}, ConfigError, "leaves way open"),
        ({"margin": 0.1}, ConfigError, "write 10 for 10 points"),
        ({"tier": "unrelatd"}, UnknownName, "did you mean 'unrelated'"),
        ({"higher": {"loss": "TeCoA", **FINE, "alpha": 1}}, ConfigError, "between 0 and 1"),
    ],
)
def test_mistakes_are_one_clear_line_before_anything_runs(changes, error, words):
    with pytest.raises(error, match=words) as raised:
        claims.check(recipe({**WEAK, **changes}))
    assert "\n" not in str(raised.value)
