"""Drift: searches against brute force, embeddings with a known answer, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import fakes
from torch import Tensor
from torch.nn.functional import normalize

from zsrobust.drift import Drift, drift, nearest
from zsrobust.drift.nearest import search
from zsrobust.errors import ConfigError, DataError, ModelError
from zsrobust.pixels import to_pixels
from zsrobust.tasks.corruptions import Corruption


class Turned(fakes.Toy):
    """The toy with its image features turned and stretched; texts are as they were."""

    def __init__(self, turn: Tensor, *, stretch: float = 1.0) -> None:
        super().__init__(name="turned")
        self.turn, self.stretch = turn, stretch

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return self.stretch * super().encode_pixels(pixels) @ self.turn


def brute_force(queries: Tensor, index: Tensor, i: int, k: int, *, without: bool) -> list[int]:
    order = (queries[i] @ index.T).argsort(descending=True).tolist()
    return [j for j in order if not (without and j == i)][:k]


@pytest.mark.parametrize("block", [1, 70, 10_000])
def test_searches_are_those_of_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "BLOCK", block)
    draw = torch.Generator().manual_seed(0)
    old = normalize(torch.randn(23, 5, generator=draw), dim=1)
    new = normalize(old + 0.4 * torch.randn(23, 5, generator=draw), dim=1)
    labels = torch.arange(23) % 4
    labels[22] = 4  # a class with one image: nothing of it can be returned
    found = search((old, new), (old, new), (1, 6), themselves=True, classes=(labels, labels), progress=False)
    for i in range(23):
        former = set(brute_force(old, old, i, 6, without=True))
        for which, queries, index in (("before", old, old), ("mixed", new, old), ("reindexed", new, new)):
            returned = brute_force(queries, index, i, 6, without=True)
            assert found["former", 6][which][i] == pytest.approx(len(former & set(returned)) / 6)
            itself = i in brute_force(queries, index, i, 1, without=False)
            assert found["itself", 1][which][i] == itself
            others = int((labels == labels[i]).sum()) - 1
            share = sum(bool(labels[j] == labels[i]) for j in returned) / min(6, others) if others else np.nan
            assert found["class", 6][which][i] == pytest.approx(share, nan_ok=True)


def test_a_collapsed_model_finds_no_image_by_itself() -> None:
    """All embeddings equal: every image ties with the right one, which is no hit."""
    index = normalize(torch.ones(9, 4), dim=1)
    found = search((index, index), (index, index), (1,), themselves=True, classes=None, progress=False)
    assert not found["itself", 1]["mixed"].any()


def test_the_same_model_has_not_moved() -> None:
    found = drift(fakes.Toy(), fakes.Toy(), fakes.task(30), k=(1, 5), progress=False)
    assert found.cosine.mean.value == pytest.approx(1)
    assert found.norm_ratio.mean.value == pytest.approx(1)
    assert all(one.mixed.value == one.reindexed.value for one in found.findings)
    assert all(one.mixed.value == 1 for one in found.findings if one.measure != "class")
    low, high = found.decisive.mixed.interval
    assert low < 1
    assert high == 1
    assert found.notes == ("both models are the same: nothing could move",)


def test_a_rotation_keeps_its_own_neighbours_and_loses_the_old_index() -> None:
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
    found = drift(fakes.Toy(), Turned(turn, stretch=2.5), fakes.task(40), k=(5,), progress=False)
    assert found.norm_ratio.mean.value == pytest.approx(2.5)
    former = found.decisive
    assert former.reindexed.value == 1
    assert former.mixed.value < 0.6
    assert found.decision == "re-index"
    assert former.chance == pytest.approx(5 / 39)
    texts = found.finding("texts", "former", 5)
    assert found.same_texts
    assert texts is not None
    assert texts.n == 4
    assert texts.mixed.value == 1
    assert texts.reindexed.value < 1
    again = drift(fakes.Toy(), Turned(turn, stretch=2.5), fakes.task(40), k=(5,), batch_size=7, progress=False)
    assert again.decisive == former


def test_cosines_are_those_of_the_features() -> None:
    old, new, task = fakes.Toy(), fakes.Toy(seed=3, name="other"), fakes.task(12)
    found = drift(old, new, task, k=(1,), progress=False)
    pixels = torch.stack([torch.from_numpy(np.array(task.source.image(row))) for row in task.ids.tolist()])
    a, b = (normalize(m.encode_pixels(pixels.permute(0, 3, 1, 2) / 255), dim=1) for m in (old, new))
    assert found.cosine.mean.value == pytest.approx(float((a * b).sum(1).mean()), abs=1e-5)
    assert found.cosine.quantiles[0.0] == pytest.approx(float((a * b).sum(1).min()), abs=1e-5)
    unlike = (a @ a.T)[~torch.eye(12, dtype=torch.bool)].mean()
    assert found.strangers == pytest.approx(float(unlike), abs=1e-5)
    assert found.same_texts is False
    json.dumps(found.to_dict(), allow_nan=False)


class Seeing(fakes.Toy):
    """Keeps the pixels that it is shown."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[Tensor] = []

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        self.seen.append(pixels.clone())
        return super().encode_pixels(pixels)


@pytest.mark.parametrize("name", ["noise", "jpeg"])
def test_models_see_a_corrupted_task_as_it_is_in_their_geometry(name: str) -> None:
    task = fakes.task(12, size=9).corrupted(Corruption(name, 5, seed=3))
    models = Seeing(), Seeing(seed=1, name="other")
    found = drift(*models, task, k=(1,), batch_size=12, progress=False)
    assert (found.images, found.n) == (f"blobs@{name}-5", 12)
    for model in models:
        shown = to_pixels(task.with_geometry(model.geometry).images(range(12)))
        assert torch.equal(model.seen[0], shown)


def test_a_corruption_at_two_sizes_is_refused() -> None:
    models = Seeing(), Seeing(size=8, name="larger")
    task = fakes.task(12, size=9)
    assert drift(*models, task, k=(1,), progress=False).n == 12
    seen = len(models[0].seen)
    with pytest.raises(ConfigError, match=r"two different things at 6x6 \('toy'\) and 8x8 \('larger'\)"):
        drift(*models, task.corrupted(Corruption("noise", 5)), k=(1,), on_bad_image="skip", progress=False)
    assert len(models[0].seen) == seen


@pytest.mark.parametrize(
    ("mixed", "gain", "decision"),
    [
        ((0.92, 0.97), (-0.2, -0.1), "keep"),
        ((0.85, 0.95), (0.1, 0.2), "undecided"),
        ((0.5, 0.6), (0.1, 0.2), "re-index"),
        ((0.5, 0.6), (-0.1, 0.2), "either"),
        ((0.5, 0.6), (1e-12, 0.2), "either"),  # 0 but for rounding
    ],
)
def test_the_rule(mixed: tuple[float, float], gain: tuple[float, float], decision: str) -> None:
    found = drift(fakes.Toy(), fakes.Toy(), fakes.task(12, classes=["one"]), k=(2,), progress=False)
    assert {one.queries for one in found.findings} == {"images"}  # one class: nothing to tell apart
    one = found.decisive
    changed = replace(one, mixed=replace(one.mixed, interval=mixed), gain=replace(one.gain, interval=gain))
    assert replace(found, findings=(changed,)).decision == decision


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Ten images at several depths, one of them twice, and files that are none."""
    draw = np.random.default_rng(0)
    for i in range(10):
        folder = tmp_path / "album" / "/".join("ab"[: i % 3])
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(draw.integers(0, 256, (7 + i, 9, 3), dtype=np.uint8))
        image.save(folder / f"{i}.PNG")
        if i == 4:
            image.save(folder / "again.bmp")
    (tmp_path / "album" / "notes.txt").write_text("no image")
    (tmp_path / "album" / ".hidden").mkdir()
    image.save(tmp_path / "album" / ".hidden" / "x.png")
    return tmp_path / "album"


def of(album: Path, **options: object) -> Drift:
    return drift(fakes.Toy(), fakes.Toy(seed=1, name="other"), album, k=(1,), progress=False, **options)  # type: ignore[arg-type]


def test_a_folder_at_any_depth(album: Path) -> None:
    found = of(album)
    assert (found.n, found.of, found.duplicates, found.same_texts) == (10, 11, 1, None)
    limited = of(album, limit=5)
    assert limited.n + limited.duplicates == 5
    assert limited.limit == (5, 0)
    asked = of(album, texts=["a cat", "a dog"]).finding("texts", "former", 1)
    assert asked is not None
    assert asked.n == 2


def test_an_unreadable_image_stops_or_is_left_out(album: Path) -> None:
    (album / "a" / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"broken\.jpg: cannot be read .* --on_bad_image skip leaves such images out"):
        of(album)
    found = of(album, on_bad_image="skip")
    assert found.n == 10
    assert len(found.bad_images) == 1
    assert "broken.jpg" in found.bad_images[0]


def test_it_refuses(album: Path, tmp_path: Path) -> None:
    toy, task = fakes.Toy(), fakes.task(12)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="'toy' in 8 and 'wide' in 9 numbers: embeddings of different widths"):
        drift(toy, fakes.Toy(width=9, name="wide"), task, k=(1,), progress=False)
    with pytest.raises(ModelError, match="'turned' gives features that are not finite, or zero"):
        drift(toy, Turned(torch.zeros(8, 8)), task, k=(1,), progress=False)
    with pytest.raises(ConfigError, match="k = 10 is too many for 11 different images: k of at most 9 fits"):
        drift(toy, toy, task.take(11), progress=False)
    with pytest.raises(ConfigError, match="k must be whole numbers of at least 1"):
        drift(toy, toy, task, k=(0,), progress=False)
    with pytest.raises(DataError, match="has no images, at any depth"):
        of(tmp_path / "empty")
    with pytest.raises(DataError, match="does not exist"):
        of(tmp_path / "nowhere")
