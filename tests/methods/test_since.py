"""The methods since TeCoA: what holds them to the original, and that they go with every way of adapting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.fakes import CLASSES, SHAPE, Toy, task

from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.encoders import tower
from zsrobust.encoders.dense import dense
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.encoders.prompted import PromptedEncoder
from zsrobust.encoders.visual_prompts import AddedTokens, TokenLayout
from zsrobust.errors import ConfigError, ModelError
from zsrobust.losses import boosted_cross_entropy, cosine, cross_entropy, divergence, squared_distance
from zsrobust.methods import METHODS
from zsrobust.methods.base import Batch, Learner, Method
from zsrobust.methods.dual import Dual
from zsrobust.methods.targets import prepare
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

SINCE = ["agft", "dual", "fare", "mart", "pmg-aft", "sim-clip", "tga-zsr", "trades"]


def setting(clip: HuggingFaceEncoder, method: Method) -> tuple[Learner, Batch, torch.Tensor]:
    head = TextHead.build(clip, tuple(f"class {n}" for n in range(9)), ("a {}",))
    learner = Learner(clip.copy(), clip, head, None)
    pixels, points = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = "true" if method.labelled else "none"
    return learner, prepare(learner, method, pixels, torch.tensor([8, 0, 0, 1]), labels), points  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["dual", "fare"])
def test_the_original_on_clean_images_has_nothing_to_learn(name: str, clip: HuggingFaceEncoder) -> None:
    method: Method = METHODS[name]()
    learner, batch, _ = setting(clip, method)
    torch.testing.assert_close(method.outer(learner, batch.pixels, batch), torch.zeros(4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(SINCE) - {"sim-clip"}))
def test_no_gradient_reaches_the_original(name: str, clip: HuggingFaceEncoder) -> None:
    method: Method = METHODS[name]()
    learner, batch, points = setting(clip, method)
    learner.encoder.requires_grad_(True)  # type: ignore[attr-defined]
    clip.requires_grad_(True)
    method.outer(learner, points, batch).sum().backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is None for weight in clip.parameters())
    assert any(weight.grad is not None for weight in learner.encoder.parameters())  # type: ignore[attr-defined]


def test_each_half_of_sim_clip_pulls_one_view(clip: HuggingFaceEncoder) -> None:
    method: Method = METHODS["sim-clip"]()
    learner, batch, points = setting(clip, method)
    learner.encoder.requires_grad_(True)  # type: ignore[attr-defined]
    moving = points.clone().requires_grad_(True)
    still = batch.pixels.clone().requires_grad_(True)
    loss = method.outer(learner, moving, Batch(still, None))
    found = torch.autograd.grad(loss.sum(), [moving, still])
    assert all(float(slope.abs().max()) > 0 for slope in found)
    one, other = (learner.encoder.encode_pixels(p).detach() for p in (points, batch.pixels))
    torch.testing.assert_close(loss.detach(), -cosine(one, other))


@pytest.mark.parametrize("name", SINCE)
@pytest.mark.parametrize("tuning", ["token-prompt", "pixel-prompt", "lora", "last-blocks"])
def test_a_method_goes_with_every_way_of_adapting(name: str, tuning: str, clip: HuggingFaceEncoder) -> None:
    method: Method = METHODS[name]()
    labels = "true" if method.labelled else "none"
    options: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 0.05, "labels": labels, "optimizer": "adamw"}
    adapted = adapt(
        clip, task=task(4, size=32), attack=PGD(Threat("linf", "8/255"), 1), method=method, tuning=tuning, **options
    )
    pixels = task_pixels()
    assert not torch.allclose(adapted.encode_pixels(pixels), clip.encode_pixels(pixels), atol=1e-4)


def task_pixels() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def test_the_parts_of_dual_anchoring_add_up(clip: HuggingFaceEncoder) -> None:
    off: dict[str, Any] = {"features": 0.0, "text": 0.0, "relations": 0.0, "clean": 0.0, "patches": 0.0}
    whole = Dual(features=0.5, text=2.0, relations=3.0, clean=4.0, patches=5.0)
    learner, batch, points = setting(clip, whole)
    with torch.no_grad():
        learner.encoder.model.visual_projection.weight.mul_(1.5).add_(0.01)  # type: ignore[attr-defined]
    parts = [Dual(**off | {key: weight}) for key, weight in vars(whole).items() if key in off]
    assert all(float(part.outer(learner, points, batch).min()) > 0 for part in parts)
    sums = sum(part.outer(learner, points, batch) for part in parts)
    torch.testing.assert_close(whole.outer(learner, points, batch), sums)
    inner = sum(part.inner(learner, points, batch) for part in parts[:3])
    torch.testing.assert_close(whole.inner(learner, points, batch), inner)
    assert all(float(part.inner(learner, points, batch).abs().max()) == 0 for part in parts[3:])


def test_mixed_views_are_images_drawn_by_their_keys_alone() -> None:
    pixels = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    keys = [(0, i, "adapt", 7) for i in range(5)]
    assert Dual().views(pixels, keys) is pixels
    mixed = Dual(mixed=1.0)
    views = mixed.views(pixels, keys)
    assert torch.equal(views, mixed.views(pixels, keys))
    assert not torch.equal(views, mixed.views(pixels, [(1, *key[1:]) for key in keys]))
    assert 0 <= float(views.min()) <= float(views.max()) <= 1
    assert all(not torch.equal(view, image) for view, image in zip(views, pixels, strict=True))
    some = Dual(mixed=0.5).views(pixels.repeat(20, 1, 1, 1), [(0, i, "adapt", 7) for i in range(100)])
    kept = sum(torch.equal(view, pixels[i % 5]) for i, view in enumerate(some))
    assert 30 <= kept <= 70


def test_what_a_step_is_about_are_the_views(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(Dual, "views", lambda *_: torch.full((4, *SHAPE), 0.5))
    outer = Dual.outer

    def watched(method: Dual, learner: Learner, points: torch.Tensor, batch: Batch) -> torch.Tensor:
        seen.extend([points, batch.pixels])
        return outer(method, learner, points, batch)

    monkeypatch.setattr(Dual, "outer", watched)
    adapt(
        Toy(), task=task(4), attack=PGD(Threat("linf", "8/255"), 1), method=Dual(patches=0.0), labels="none", epochs=1
    )
    points, pixels = seen
    assert torch.equal(pixels, torch.full_like(pixels, 0.5))
    assert 0 < float((points - 0.5).abs().max()) <= 8 / 255 + 1e-6


def test_one_image_is_a_batch_where_none_are_compared() -> None:
    given: dict[str, Any] = {"attack": PGD(Threat(), 1), "labels": "none", "epochs": 1, "batch_size": 1}
    adapt(Toy(), task=task(2), method=Dual(patches=0.0), **given)
    for method in (Dual(patches=0.0, relations=1.0), Dual(patches=0.0, mixed=0.5)):
        with pytest.raises(ConfigError, match="dual compares images of a batch: it needs at least 2, not 1"):
            adapt(Toy(), task=task(2), method=method, **given)


@pytest.mark.filterwarnings("ignore:batch_size auto")
@pytest.mark.parametrize("batch_size", [4, "auto"])
def test_what_is_left_for_the_last_batch_must_be_enough(batch_size: object) -> None:
    given: dict[str, Any] = {"attack": PGD(Threat(), 1), "labels": "none", "epochs": 1, "batch_size": batch_size}
    line = "of 5 images in batches of 4 the last batch of an epoch has 1: take another batch_size"
    for method in ("imgcoadv", Dual(patches=0.0, relations=1.0)):
        with pytest.raises(ConfigError, match=line):
            adapt(Toy(), task=task(5), method=method, **given)
        adapt(Toy(), task=task(6), method=method, **given)
        with pytest.raises(ConfigError, match="it needs at least 2, not 1"):
            adapt(Toy(), task=task(1, classes=CLASSES), method=method, **given)
    adapt(Toy(), task=task(5), method=Dual(patches=0.0), **given)


@pytest.mark.parametrize("method", [{"features": -1.0}, {"text": float("nan")}, {"relations": True}])
def test_a_weight_must_not_be_negative(method: dict[str, Any]) -> None:
    (option,) = method
    with pytest.raises(ConfigError, match=f"dual's {option} must be at least 0"):
        Dual(**method)


def test_features_of_patches_are_those_of_the_tower(clip: HuggingFaceEncoder) -> None:
    pixels = task_pixels()
    features, patches = dense(clip, pixels)
    assert torch.equal(features, clip.encode_pixels(pixels))
    assert patches.shape == (2, clip.model.vision_model.embeddings.num_patches, features.shape[1])
    tokens = AddedTokens(TokenLayout(3), *tower.blocks_and_width(clip.model))
    torch.nn.init.normal_(tokens.tokens, generator=torch.Generator().manual_seed(0))
    prompted = PromptedEncoder(clip.copy(), tokens=tokens)
    _, through = dense(prompted, pixels)
    assert through.shape == patches.shape
    assert not torch.allclose(through, patches, atol=1e-3)
    assert not clip.model.vision_model.encoder.layers[-1]._forward_hooks
    with pytest.raises(ModelError, match="no features of single patches"):
        dense(Toy(), pixels)


def test_losses_of_logits_and_features() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = 5 * torch.randn(2, 5, 7, generator=draw, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 4])
    expected = torch.nn.functional.kl_div(other.log_softmax(1), one.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(divergence(one, other).double(), expected, rtol=1e-4, atol=1e-4)
    assert float(divergence(one, one).abs().max()) == 0
    torch.testing.assert_close(squared_distance(one, other).double(), ((one - other) ** 2).sum(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(cosine(one, 3 * one), torch.ones(5))
    p = one.softmax(1)
    most = p.scatter(1, labels[:, None], 0).amax(1)
    boosted = -p.gather(1, labels[:, None])[:, 0].log() - (1 - most).log()
    torch.testing.assert_close(boosted_cross_entropy(one, labels).double(), boosted, rtol=1e-4, atol=1e-4)
    certain = torch.tensor([[0.0, 500.0, 0.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(boosted_cross_entropy(certain, labels[:1]).sum(), certain)
    assert bool(slope.isfinite().all())
    with torch.no_grad():
        assert float(boosted_cross_entropy(certain, labels[:1])) > float(cross_entropy(certain, labels[:1])) > 400
