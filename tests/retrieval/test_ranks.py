"""Ranks and recalls: by definition, and where the answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsrobust.retrieval.ranks import ranks
from zsrobust.retrieval.records import Ranked
from zsrobust.retrieval.summary import ALL, IMAGE_TO_TEXT, TEXT_TO_IMAGE, Recall, summarise
from zsrobust.retrieval.words import markdown, plain
from zsrobust.statistics import Outcomes, bootstrap_mean

UNITS = np.eye(4, dtype=np.float32)


@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(2, 9))
def test_ranks_are_those_of_brute_force(seed: int, queries: int, candidates: int) -> None:
    rng = np.random.default_rng(seed)
    q, c = (rng.integers(-2, 3, (count, 3)).astype(np.float32) for count in (queries, candidates))  # many ties
    own = [rng.choice(candidates, rng.integers(1, candidates), replace=False) for _ in range(queries)]
    expected = []
    for query, right in zip(q, own, strict=True):
        # Foreign candidates go first among equals: what ties with a right one is found before it.
        order = sorted(range(candidates), key=lambda i: (-float(query @ c[i]), i in right))
        # Right ones above the best right one do not exist, so its place counts only foreign ones.
        expected.append(1 + next(place for place, i in enumerate(order) if i in right))
    assert ranks(q, c, own).tolist() == expected


def test_a_model_that_sees_no_difference_finds_nothing() -> None:
    same = np.full((20, 4), 0.5, dtype=np.float32) + np.random.default_rng(0).uniform(0, 1e-8, (20, 4)).astype("f4")
    own = [np.array([i]) for i in range(20)]
    assert ranks(same, UNITS, [np.array([i % 4]) for i in range(20)]).tolist() == [4] * 20
    assert ranks(UNITS, same, own[:4]).tolist() == [20] * 4


def test_what_has_no_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ranks(UNITS * np.nan, UNITS, [np.array([0])] * 4)
    with pytest.raises(ValueError, match="without a right"):
        ranks(UNITS, UNITS, [np.array([], dtype=np.int64)] * 4)


def record(model: str, attack: str, example: int, rank: int, texts: list[int], text_ranks: list[int]) -> Ranked:
    return Ranked(model, attack, "none", 0, example, f"i{example}", rank, texts, text_ranks, 0.0, 1, 0)


def header(images: int, texts: int) -> dict[str, object]:
    captions = {"name": "toys", "images": images, "texts": texts, "of": images, "limit": None}
    return {"captions": captions, "threat": "linf:2/255:native", "seed": 0}


def two_models() -> list[Ranked]:
    """12 images with a text each; model b is worse at images 0 to 3, the attack at 0 to 5."""
    records = []
    for model, lost in (("a", 0), ("b", 4)):
        for attack, more in (("clean", 0), ("x", 6), ("y", 3)):
            for i in range(12):
                rank = 7 if i < max(lost, more) else 1
                records.append(record(model, attack, i, rank, [i], [rank + 4 if i < lost else 1]))
    return records


def test_recalls_and_changes_are_those_of_the_records() -> None:
    summary = summarise(two_models(), header(12, 12), ["x", "y"], ["a", "b"])
    found = {(r.model, r.direction, r.attack, r.k): r for r in summary.recalls}
    assert [found["a", IMAGE_TO_TEXT, attack, 1].found for attack in ("clean", "x", "y", ALL)] == [1, 0.5, 0.75, 0.5]
    assert [found["b", IMAGE_TO_TEXT, attack, 5].found for attack in ("clean", "y")] == [8 / 12, 8 / 12]
    assert found["b", IMAGE_TO_TEXT, ALL, 10].found == 1
    assert found["b", TEXT_TO_IMAGE, "clean", 10].found == 8 / 12  # rank 11
    assert found["a", IMAGE_TO_TEXT, "x", 1] == Recall(
        "a", IMAGE_TO_TEXT, "x", 1, 12, 12, 0.5, found["a", IMAGE_TO_TEXT, "x", 1].interval
    )
    changes = {(c.direction, c.attack, c.k): c for c in summary.changes}
    assert {c.model for c in summary.changes} == {"b"}
    change = changes[IMAGE_TO_TEXT, "clean", 1]
    assert change.change == pytest.approx(-4 / 12)
    assert change.interval[0] <= change.change <= change.interval[1] <= 0
    assert change.p_holm >= change.p
    for text in (plain(summary), markdown(summary)):
        assert "50.0 (" in text
        assert "−33.3 (" in text
    assert max(map(len, plain(summary).splitlines())) <= 80
    json.dumps(summary.to_json(), allow_nan=False)


def test_a_recall_under_attack_is_never_above_the_clean_one() -> None:
    records = [record("a", "clean", i, 8, [i], [8]) for i in range(12)]
    records += [record("a", "x", i, 1, [i], [1]) for i in range(12)]
    summary = summarise(records, header(12, 12), ["x"], ["a"])
    assert {r.found for r in summary.recalls if r.k < 10} == {0}


def test_a_text_that_images_share_is_asked_once_and_clusters_them() -> None:
    records = [record("a", "clean", i, 1, [i // 2], [1 if i < 4 else 9]) for i in range(12)]
    summary = summarise(records, header(12, 6), [], ["a"])
    (found,) = (r for r in summary.recalls if r.direction == TEXT_TO_IMAGE and r.k == 1)
    assert (found.n, found.found) == (6, 2 / 6)
    values = np.array([1.0, 1, 0, 0, 0, 0])
    assert found.interval == bootstrap_mean([Outcomes([str(2 * i) for i in range(6)], values)]).interval


def test_a_gallery_that_is_no_larger_than_k_says_nothing() -> None:
    records = [record("a", "clean", i, 1, [i], [1]) for i in range(5)]
    summary = summarise(records, header(5, 5), [], ["a"])
    assert {r.k for r in summary.recalls} == {1}
    assert "no more than K candidates" in plain(summary)


def test_missing_records_are_no_result() -> None:
    with pytest.raises(ValueError, match="11 of 12 queries"):
        summarise(two_models()[:11], header(12, 12), [], ["a"])
