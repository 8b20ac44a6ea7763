from __future__ import annotations

import numpy as np
import pytest

from zsrobust.statistics import (
    Outcomes,
    at_least,
    auroc,
    balanced_accuracy,
    bootstrap_difference,
    bootstrap_mean,
    holm,
    mcnemar,
    wilson,
)


def outcomes(values, images=None, prefix="i") -> Outcomes:
    values = np.asarray(values, dtype=float)
    return Outcomes(images or [f"{prefix}{i}" for i in range(len(values))], values)


def width(estimate) -> float:
    return estimate.interval[1] - estimate.interval[0]


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    [  # scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
        (0, 10, (0.0, 0.27753)),
        (10, 10, (0.72247, 1.0)),
        (5, 10, (0.23659, 0.76341)),
        (122, 200, (0.54094, 0.67492)),
        (1, 1, (0.20654, 1.0)),
    ],
)
def test_wilson_known_values(successes, n, expected):
    assert wilson(successes, n) == pytest.approx(expected, abs=2e-5)


def test_wilson_contains_the_share_and_grows_with_the_level():
    for n in (1, 7, 200):
        for successes in range(0, n + 1, max(1, n // 7)):
            low, high = wilson(successes, n)
            assert 0 <= low <= successes / n <= high <= 1
            wider = wilson(successes, n, 0.99)
            assert wider[1] - wider[0] > high - low


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_nonsense(successes, n):
    with pytest.raises(ValueError, match=r"no trials|successes of"):
        wilson(successes, n)


def test_wilson_covers():
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.9):
        draws = rng.binomial(100, share, size=2000)
        hits = [low <= share <= high for low, high in (wilson(int(k), 100) for k in draws)]
        assert 0.92 < np.mean(hits) < 0.99


def test_mean_weighs_tasks_the_same_and_is_deterministic():
    tasks = [outcomes([1] * 10, prefix="a"), outcomes([0, 1] * 100, prefix="b")]
    first = bootstrap_mean(tasks)
    assert first.value == 0.75
    assert first == bootstrap_mean(tasks)
    assert first != bootstrap_mean(tasks, seed=1)
    assert first.interval[0] < 0.75 < first.interval[1]


def test_one_task_agrees_with_the_binomial():
    estimate = bootstrap_mean([outcomes([1] * 60 + [0] * 140)])
    half = 1.96 * np.sqrt(0.3 * 0.7 / 200)
    assert estimate.interval == pytest.approx((0.3 - half, 0.3 + half), abs=0.012)


def test_coverage_with_shared_and_unshared_images():
    """Two tasks share images and mostly agree, a third has its own: 95 % intervals cover about 95 %."""
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(250):
        hard = rng.random(80)
        a, b = hard < 0.6, np.where(rng.random(80) < 0.8, hard < 0.6, rng.random(80) < 0.6)
        tasks = [outcomes(a, prefix="s"), outcomes(b, prefix="s"), outcomes(rng.random(80) < 0.6, prefix="t")]
        low, high = bootstrap_mean(tasks, resamples=500).interval
        hits.append(low <= 0.6 <= high)
    assert 0.90 <= np.mean(hits) <= 0.985


def test_shared_images_widen_the_interval():
    values = np.random.default_rng(2).random((4, 150)) < 0.5
    values[1:] = values[0]  # the same images are hard in every task
    shared = bootstrap_mean([outcomes(v, prefix="same") for v in values])
    apart = bootstrap_mean([outcomes(v, prefix=f"task{t}-") for t, v in enumerate(values)])
    assert shared.value == apart.value
    assert width(shared) == pytest.approx(2 * width(apart), rel=0.15)  # sqrt(4 tasks)


def test_many_small_overlaps_are_pooled_not_frozen():
    """Each task shows its own half of one pool, so nearly every image has a set of tasks of its own."""
    rng = np.random.default_rng(3)
    hard = rng.random(120) < 0.5
    chosen = [rng.permutation(120)[:60] for _ in range(8)]
    tasks = [outcomes(hard[c], images=[f"pool{i}" for i in c]) for c in chosen]
    # Strata of one image each would freeze all of it; the mean is about that of the 120 images.
    assert width(bootstrap_mean(tasks)) > 0.8 * 2 * 1.96 * np.sqrt(0.25 / 120)


def test_an_image_that_a_task_shows_twice_is_one_cluster():
    values = [0, 1] * 50
    once = bootstrap_mean([outcomes(values)])
    twice = bootstrap_mean([outcomes(np.repeat(values, 2), images=[f"i{k // 2}" for k in range(200)])])
    assert width(twice) == pytest.approx(width(once), rel=0.1)


@pytest.mark.parametrize(("value", "expected"), [(1, (0.9627, 1.0)), (0, (0.0, 0.0373))])
def test_all_alike_is_not_certainty(value, expected):
    """Resampling 99 equal outcomes gives no width; the interval is Wilson's for 99 images."""
    estimate = bootstrap_mean([outcomes([value] * 99)])
    assert estimate.value == value
    assert estimate.interval == pytest.approx(expected, abs=1e-4)
    assert estimate.interval == pytest.approx(wilson(99 * value, 99))


def test_all_alike_counts_shared_images_once():
    shared = bootstrap_mean([outcomes([1] * 50, prefix="same") for _ in range(4)])
    apart = bootstrap_mean([outcomes([1] * 50, prefix=f"task{t}-") for t in range(4)])
    assert shared.interval == pytest.approx(wilson(50, 50))
    assert apart.interval == pytest.approx(wilson(200, 200))


def test_one_image_and_tiny_tasks_stay_inside_0_1():
    tasks = [
        outcomes([1], prefix="a"),
        outcomes([0, 1, 1], prefix="b"),
        outcomes([0, 0], images=["b0", "a0"]),
    ]
    estimate = bootstrap_mean(tasks)
    assert 0 <= estimate.interval[0] <= estimate.value <= estimate.interval[1] <= 1


def test_nothing_is_an_error():
    with pytest.raises(ValueError, match="no outcomes"):
        outcomes([])
    with pytest.raises(ValueError, match="no tasks"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="2 images but 1 values"):
        Outcomes(["a", "b"], np.ones(1))


def test_paired_difference_is_narrower_than_the_parts():
    rng = np.random.default_rng(4)
    before = rng.random(300) < 0.5
    after = before | (rng.random(300) < 0.1)  # only ever better
    estimate = bootstrap_difference([outcomes(before)], [outcomes(after)])
    assert estimate.value == pytest.approx(after.mean() - before.mean())
    assert estimate.interval[0] > 0
    assert width(estimate) < 0.6 * width(bootstrap_mean([outcomes(after)]))


def test_difference_can_be_negative_and_its_constant_case_is_two_sided():
    worse = bootstrap_difference([outcomes([1] * 40)], [outcomes([0] * 40)])
    assert worse.value == -1
    assert worse.interval == pytest.approx((-1, -1 + wilson(0, 40)[1]))
    same = bootstrap_difference([outcomes([1] * 40)], [outcomes([1] * 40)])
    assert same.interval == pytest.approx((-wilson(0, 40)[1], wilson(0, 40)[1]))


def test_difference_refuses_other_images():
    with pytest.raises(ValueError, match="not on the same images"):
        bootstrap_difference([outcomes([1, 0], prefix="a")], [outcomes([1, 0], prefix="b")])


@pytest.mark.parametrize(
    ("lost", "gained", "expected"),
    [(0, 0, 1.0), (0, 1, 1.0), (0, 6, 2 / 64), (3, 12, 0.03515625), (10, 10, 1.0), (2, 9, 0.06542968750)],
)  # scipy.stats.binomtest(lost, lost + gained).pvalue
def test_mcnemar_known_values(lost, gained, expected):
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-12)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_mcnemar_of_very_many_examples_is_still_exact():
    normal = 2 * (1 - 0.9772498680518208)  # two standard deviations: 5,000 ± √10,000
    assert mcnemar(5000 - 100, 5000 + 100) == pytest.approx(normal, rel=0.03)
    assert mcnemar(0, 5000) == 0  # below the smallest float, and no error
    with pytest.raises(ValueError, match="not negative"):
        mcnemar(-1, 3)


def test_holm_known_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust(p, "holm")
    assert holm([0.04]) == [0.04]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.5])


def test_holm_keeps_false_alarms_of_a_family_rare():
    rng = np.random.default_rng(5)
    wrong = [min(holm(list(rng.random(8)))) < 0.05 for _ in range(2000)]
    assert 0.03 < np.mean(wrong) < 0.07


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 5), (2, 25), (3, 180), (5, 5), (6, 5)])
def test_binomial_tail(k, n):
    from math import comb

    exact = sum(comb(n, i) * 0.3**i * 0.7 ** (n - i) for i in range(k, n + 1))
    assert at_least(k, n, 0.3) == pytest.approx(exact, rel=1e-9, abs=1e-15)


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(6)
    scores, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    pairs = np.sign(scores[positive][:, None] - scores[~positive][None])
    assert auroc(scores, positive) == pytest.approx(np.mean((pairs + 1) / 2))
    assert auroc(np.arange(4.0), np.array([False, False, True, True])) == 1
    assert auroc(-np.arange(4.0), np.array([False, False, True, True])) == 0
    with pytest.raises(ValueError, match="only one class"):
        auroc(np.arange(3.0), np.ones(3, dtype=bool))


def test_balanced_accuracy_weighs_classes_the_same():
    right, labels = np.array([True] * 90 + [False] * 10), np.array([0] * 90 + [1] * 10)
    assert balanced_accuracy(right, labels) == 0.5
    assert balanced_accuracy(right[:90], labels[:90]) == 1
    with pytest.raises(ValueError, match="no outcomes"):
        balanced_accuracy(right[:0], labels[:0])


def test_the_bootstrap_p_value_is_small_for_a_change_and_fair_without_one():
    rng = np.random.default_rng(7)
    small = []
    for _ in range(250):  # two tasks that share images, and no difference on average
        before, after = rng.random((2, 2, 80)) < 0.5
        after[1], before[1] = np.where(rng.random(80) < 0.7, after[0], after[1]), before[0]
        sides = [[outcomes(v, prefix="s") for v in side] for side in (before, after)]
        small.append(bootstrap_difference(*sides, resamples=400).p < 0.05)
    assert 0.015 < np.mean(small) < 0.10
    before = rng.random(200) < 0.3
    better = bootstrap_difference([outcomes(before)], [outcomes(before | (rng.random(200) < 0.4))])
    assert better.p == 1 / 2001  # the smallest it can say


def test_the_bootstrap_p_value_agrees_with_mcnemar_on_one_task():
    before = np.array([1] * 30 + [0] * 45 + [1] * 125)
    after = np.array([0] * 30 + [1] * 45 + [1] * 125)
    change = bootstrap_difference([outcomes(before)], [outcomes(after)])
    assert change.p == pytest.approx(mcnemar(30, 45), abs=0.03)
    assert bootstrap_difference([outcomes(after)], [outcomes(before)]).p == pytest.approx(change.p, abs=0.02)


@pytest.mark.parametrize("n", [1, 3, 20])
def test_tasks_that_differ_but_do_not_vary_are_no_certainty(n):
    """One task is changed on all its images, the other on none: the change is as certain as that of the first."""
    changed, same, other = (
        (outcomes([0] * n, prefix=p), outcomes([v] * n, prefix=p)) for p, v in zip("abc", (1, 0, 1), strict=True)
    )
    mean = bootstrap_mean([changed[1], same[1]])
    assert mean.value == 0.5
    assert mean.interval[1] - mean.interval[0] == pytest.approx(min(1.0, 2 * wilson(0, 2 * n)[1]))
    found = bootstrap_difference(*zip(changed, same, strict=True))
    assert found.p == pytest.approx(max(mcnemar(0, n), 1 / 2001))
    assert found.interval[0] < found.value == 0.5 < found.interval[1]
    both = bootstrap_difference(*zip(changed, same, changed, other[::-1], strict=True))
    assert (both.value, both.p) == (0.25, 1.0)  # n images gained, n lost


@pytest.mark.parametrize(("n", "expected"), [(3, 0.25), (8, 2 / 256), (40, 1 / 2001)])
def test_all_changed_alike_is_a_sign_test(n, expected):
    assert bootstrap_difference([outcomes([0] * n)], [outcomes([1] * n)]).p == pytest.approx(expected)
    assert bootstrap_difference([outcomes([1] * n)], [outcomes([1] * n)]).p == 1
