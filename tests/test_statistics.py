from __future__ import annotations

import numpy as np
import pytest

from zsrobust.statistics import Outcomes, bootstrap_difference, bootstrap_mean, wilson


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
