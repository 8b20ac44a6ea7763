"""A prompted model is its base plus the prompt, everywhere: features, attacks, bfloat16, fingerprints, copies.

And what makes no sense as a prompt is refused.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from tests.encoders.small import SHAPES, added, appended, both, seeded, some_pixels
from torch import Tensor

from zsrobust.attacks.checks import judge
from zsrobust.attacks.pgd import PGD
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders import Encoder, tower
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.encoders.prompted import PromptedEncoder
from zsrobust.encoders.visual_prompts import AddedPixels, AddedTokens, PixelLayout, TokenLayout
from zsrobust.errors import ConfigError, ModelError, UnknownName, ZSRobustError
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

DEPTHS = ["shallow", "deep"]


def by_hooks(base: HuggingFaceEncoder, image: Tensor, tokens: Tensor) -> Tensor:
    """The tower of transformers itself, with tokens put in by hooks: another way to the same features."""
    visual, count = base.model.vision_model, tokens.shape[1]

    def append(_: object, __: object, out: Tensor) -> Tensor:
        return torch.cat([out, tokens[0].expand(len(out), -1, -1)], 1)

    def put(index: int) -> Any:
        return lambda _, given: (
            torch.cat([given[0][:, :-count], tokens[index].expand(len(image), -1, -1)], 1),
            *given[1:],
        )

    hooks = [visual.embeddings.register_forward_hook(append)]
    for index in range(1, len(tokens)):
        hooks.append(visual.encoder.layers[index].register_forward_pre_hook(put(index)))
    if base.model.config.model_type == "siglip":
        hooks.append(visual.post_layernorm.register_forward_pre_hook(lambda _, given: (given[0][:, :-count],)))
    found: Tensor = base.model.get_image_features(pixel_values=image).pooler_output
    for hook in hooks:
        hook.remove()
    return found


def test_without_prompts_the_parts_of_the_tower_are_bit_equal_to_the_tower(base: HuggingFaceEncoder) -> None:
    pixels = some_pixels()
    expected = base.encode_pixels(pixels)
    width = tower.blocks_and_width(base.model)[1]
    image = base.normalised(base.resized(pixels))
    assert torch.equal(tower.features(base.model, image, torch.zeros(1, 0, width)), expected)
    zero = PromptedEncoder(base.copy(), added(base, std=0.0, shape="full"))
    assert torch.equal(zero.encode_pixels(pixels), expected)


@pytest.mark.parametrize("depth", DEPTHS)
def test_token_prompts_are_what_hooks_in_the_tower_of_transformers_do(base: HuggingFaceEncoder, depth: str) -> None:
    tokens = appended(base, depth=depth, position="learned")
    blocks, width = tower.blocks_and_width(base.model)
    assert tokens.tokens.shape == (blocks if depth == "deep" else 1, 4, width)
    assert tokens.position is not None
    sums = torch.cat([tokens.tokens[:1] + tokens.position, tokens.tokens[1:]])
    pixels = some_pixels()
    expected = by_hooks(base, base.normalised(base.resized(pixels)), sums)
    found = PromptedEncoder(base, tokens=tokens).encode_pixels(pixels)
    assert torch.equal(found, expected)
    assert not torch.allclose(found, base.encode_pixels(pixels), atol=1e-2)


@pytest.mark.parametrize("where", ["after", "before"])
@pytest.mark.parametrize("layout", SHAPES)
def test_pixel_prompts_are_added_where_they_should_be(clip: HuggingFaceEncoder, layout: Any, where: str) -> None:
    prompt = added(clip, where=where, **layout)
    canvas = prompt(torch.zeros(1, 3, 32, 32))[0]
    drawn = dict(prompt.named_parameters())
    covered = torch.zeros(32, 32, dtype=torch.bool)
    if layout["shape"] == "frame":
        covered[:] = True
        covered[3:-3, 3:-3] = False
        assert torch.equal(canvas[:, 3:-3, -3:], drawn["right"])
        assert torch.equal(canvas[:, :3], drawn["top"])
    elif layout["shape"] == "patch":
        covered[:5, :5] = True
        assert torch.equal(canvas[:, :5, :5], drawn["pixels"])
    else:
        covered[:] = True
    assert torch.equal(canvas[0] != 0, covered)
    assert sum(p.numel() for p in drawn.values()) == 3 * int(covered.sum())
    image = clip.resized(some_pixels())
    expected = clip.normalised(image) + canvas if where == "after" else clip.normalised(image + canvas)
    found = PromptedEncoder(clip, prompt).encode_pixels(some_pixels())
    torch.testing.assert_close(found, clip.features_of(expected), rtol=1e-6, atol=1e-6)


def test_the_usual_extent_is_30_of_224_pixels() -> None:
    for size, extent in ((224, 30), (336, 45), (64, 9)):
        assert PixelLayout().fitted((size, size)).width == extent
        assert PixelLayout("patch").fitted((size, size)).size == extent
    assert PixelLayout("random-patch").fitted((224, 224)).describe() == {
        "shape": "random-patch", "size": 30, "where": "after", "samples": 20,
    }  # fmt: skip


def test_a_random_patch_is_elsewhere_for_each_image_and_call_and_reaches_every_place(clip: HuggingFaceEncoder) -> None:
    prompt = added(clip, shape="random-patch", size=30, samples=7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        canvases = prompt(torch.zeros(60, 3, 32, 32))
        again = prompt(torch.zeros(60, 3, 32, 32))
        torch.manual_seed(0)
        assert torch.equal(prompt(torch.zeros(60, 3, 32, 32)), canvases)
    assert not torch.equal(canvases, again)
    corners = [tuple((canvas[0] != 0).nonzero()[0].tolist()) for canvas in canvases]
    assert set(corners) == {(row, column) for row in range(3) for column in range(3)}
    for canvas, (row, column) in zip(canvases, corners, strict=True):
        assert torch.equal(canvas[:, row : row + 30, column : column + 30], prompt.pixels)
        assert int((canvas != 0).sum()) == 3 * 30 * 30
    prompt.requires_grad_(True)
    prompt(torch.zeros(5, 3, 32, 32)).sum().backward()
    torch.testing.assert_close(prompt.pixels.grad, torch.full((3, 30, 30), 5.0), rtol=0, atol=0)
    encoder = PromptedEncoder(clip, prompt)
    head = TextHead.build(encoder, ("cat", "dog"), ("a {}",))
    assert (encoder.samples, ZeroShotClassifier(encoder, head).samples) == (7, 7)
    assert PromptedEncoder(clip, added(clip)).samples == 1
    calls: list[int] = []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    prompt.register_forward_hook(lambda *_: calls.append(1))
    judge(ZeroShotClassifier(encoder, head, rows=4), some_pixels(4), torch.zeros(4, dtype=torch.int64))
    assert len(calls) == 4 * 7  # image by image


def test_it_is_an_encoder_that_passes_on_what_is_the_bases(base: HuggingFaceEncoder) -> None:
    encoder = both(base.copy())
    assert isinstance(encoder, Encoder)
    for name in ("input_size", "geometry", "resize_description", "logit_scale", "device"):
        assert getattr(encoder, name) == getattr(base, name)
    assert encoder.name == f"{base.name}+prompt"
    assert dict(encoder.provenance) == {**base.provenance, "prompt": encoder.describe_prompt()}
    assert torch.equal(encoder.encode_texts(["a cat"]), base.encode_texts(["a cat"]))
    assert encoder.text_fingerprint() == base.text_fingerprint()
    assert torch.equal(encoder(some_pixels()), encoder.encode_pixels(some_pixels()))
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    fast = encoder.encode_pixels(some_pixels())
    encoder.set_attention("eager")
    torch.testing.assert_close(encoder.encode_pixels(some_pixels()), fast, atol=1e-5, rtol=1e-5)
    assert encoder.base.model.vision_model.config._attn_implementation == "eager"


def test_visual_parameters_are_what_image_features_depend_on(base: HuggingFaceEncoder) -> None:
    encoder = both(base.copy())
    encoder.requires_grad_(True)
    encoder.encode_pixels(some_pixels()).square().sum().backward()  # type: ignore[no-untyped-call]
    used = {id(parameter) for parameter in encoder.parameters() if parameter.grad is not None}
    named = dict(encoder.visual_parameters())
    assert {id(parameter) for parameter in named.values()} == used
    prompt = {name for name in named if name.startswith("prompt.")}
    assert prompt == {f"prompt.pixel.{strip}" for strip in ("top", "bottom", "left", "right")} | {
        "prompt.tokens.tokens", "prompt.tokens.position",
    }  # fmt: skip
    assert named.keys() - prompt == dict(base.visual_parameters()).keys()


@pytest.mark.parametrize("depth", DEPTHS)
def test_lowered_it_computes_roughly_the_same_and_follows_the_prompt(base: HuggingFaceEncoder, depth: str) -> None:
    encoder = both(base.copy(), depth=depth)
    pixels = some_pixels().requires_grad_(True)
    exact, bare = encoder.encode_pixels(pixels), base.encode_pixels(pixels)
    with encoder.lowered():
        rough = encoder.encode_pixels(pixels)
        (gradient,) = torch.autograd.grad(rough.square().sum(), pixels)
        with torch.no_grad():
            for _, parameter in encoder.prompt_parameters():
                parameter.neg_()
        changed = encoder.encode_pixels(pixels)
    (true,) = torch.autograd.grad(exact.square().sum(), pixels)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert relative(rough, exact) < 0.03
    assert relative(exact, bare) > 0.1
    assert float(torch.cosine_similarity(gradient.flatten(1), true.flatten(1)).min()) > 0.9
    assert relative(changed, encoder.encode_pixels(pixels)) < 0.03
    assert relative(changed, rough) > 0.1


def relative(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm() / expected.norm()).detach())


def test_an_attack_sees_the_prompt_and_its_gradient(clip: HuggingFaceEncoder) -> None:
    pixels, labels = some_pixels(4), torch.tensor([0, 1, 0, 1])
    attack, keys = PGD(Threat("linf", "4/255"), 5), [(0, i) for i in range(4)]
    head = TextHead.build(clip, ("cat", "dog"), ("a {}",))

    def found(encoder: Encoder) -> tuple[Tensor, Tensor]:
        def loss(points: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(classifier(points), labels, reduction="none")

        classifier = ZeroShotClassifier(encoder, head)
        points = attack.perturb(loss, pixels, keys=keys)
        with torch.no_grad():
            return points, loss(points)

    bare_points, _ = found(clip)
    for prompted in (
        PromptedEncoder(clip, added(clip)),
        PromptedEncoder(clip, tokens=appended(clip)),
        PromptedEncoder(clip, added(clip, shape="full", where="before", std=0.1), appended(clip, depth="deep")),
    ):
        points, loss = found(prompted)
        assert not torch.equal(points, bare_points)
        classifier = ZeroShotClassifier(prompted, head)
        transferred = torch.nn.functional.cross_entropy(classifier(bare_points), labels, reduction="none")
        assert float((loss - transferred).mean()) > 0
    # the gradient is the derivative of the prompted model: checked by differences, in float64
    exact = both(clip.copy()).double()
    point = clip.resized(pixels[:1]).double().requires_grad_(True)
    (slope,) = torch.autograd.grad(exact.encode_pixels(point).sum(), point)
    way = torch.randn(point.shape, generator=seeded(5), dtype=torch.float64)
    ahead, behind = (exact.encode_pixels(point + s * 1e-5 * way).sum().detach() for s in (1, -1))
    assert float((ahead - behind) / 2e-5) == pytest.approx(float((slope * way).sum()), rel=1e-6)


def test_fingerprints_see_prompt_layout_and_base(clip: HuggingFaceEncoder) -> None:
    encoder = both(clip.copy())
    seen = {clip.fingerprint(), encoder.fingerprint()}
    assert encoder.copy().fingerprint() == encoder.fingerprint()
    for name, _ in encoder.visual_parameters():
        if name.startswith("prompt.") or name.endswith("class_embedding"):
            changed = encoder.copy()
            with torch.no_grad():
                dict(changed.visual_parameters())[name].view(-1)[0].add_(1e-3)
            seen.add(changed.fingerprint())
    before, after = (PromptedEncoder(clip.copy(), added(clip, where=where)) for where in ("before", "after"))
    assert torch.equal(before.pixel.top, after.pixel.top)  # type: ignore[union-attr]
    assert len(seen | {before.fingerprint(), after.fingerprint()}) == 2 + 7 + 2


@pytest.mark.parametrize("duplicate", [PromptedEncoder.copy, copy.deepcopy])
def test_a_copy_is_independent(clip: HuggingFaceEncoder, duplicate: Any) -> None:
    encoder = both(clip)
    twin, before = duplicate(encoder), encoder.fingerprint()
    expected = encoder.encode_pixels(some_pixels())
    with torch.no_grad():
        for _, parameter in twin.visual_parameters():
            parameter.add_(1)
    assert encoder.fingerprint() == before
    with encoder.lowered():
        assert relative(encoder.encode_pixels(some_pixels()), expected) < 0.03


@pytest.mark.parametrize(
    ("make", "error", "line"),
    [
        (lambda e: PromptedEncoder(e), ConfigError, "needs a pixel prompt, token prompts, or both"),
        (lambda e: PromptedEncoder(cast(Any, both(e))), ModelError, "can be prompted, not a PromptedEncoder"),
        (lambda e: PromptedEncoder(e, AddedPixels(PixelLayout(), (64, 64))), ConfigError, "does not fit"),
        (
            lambda e: PromptedEncoder(e, tokens=AddedTokens(TokenLayout(2), 2, 8)),
            ConfigError,
            "2 blocks and width 16",
        ),
        (lambda e: added(e, width=16), ConfigError, "leaves nothing of 32x32: at most 15, or 'full'"),
        (lambda e: added(e, shape="patch", size=33), ConfigError, "does not fit into a 32x32 image"),
        (lambda e: added(e, shape="frames"), UnknownName, "did you mean 'frame'"),
        (lambda e: added(e, where="beside"), UnknownName, "place of a pixel prompt 'beside'"),
        (
            lambda e: added(e, size=3),
            ConfigError,
            "size is for the pixel prompt patch and random-patch, not",
        ),
        (lambda e: added(e, samples=3), ConfigError, "samples is for the pixel prompt random-patch"),
        (lambda e: added(e, width=0), ConfigError, "width must be a whole number of at least 1, not 0"),
        (lambda e: added(e, shape="random-patch", samples=1), ConfigError, "at least 2, not 1"),
        (lambda e: appended(e, count=0), ConfigError, "count of token prompts must be a whole number of at least 1"),
        (lambda e: appended(e, depth="deeper"), UnknownName, "did you mean 'deep'"),
        (lambda e: appended(e, position="sine"), UnknownName, "position of token prompts 'sine'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    clip: HuggingFaceEncoder, make: Any, error: type[ZSRobustError], line: str
) -> None:
    with pytest.raises(error, match=line) as caught:
        make(clip)
    assert "\n" not in str(caught.value)
