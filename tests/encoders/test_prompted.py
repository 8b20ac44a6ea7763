"""A prompted model is its base plus the prompt, everywhere: features, attacks, bfloat16, fingerprints, files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.encoders.small import edit_json
from torch import Tensor

import zsrobust as zr
from zsrobust.attacks.checks import judge
from zsrobust.attacks.pgd import PGD
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders import Encoder, tower
from zsrobust.encoders import huggingface as hf
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.encoders.prompted import PromptedEncoder, from_folder
from zsrobust.encoders.visual_prompts import AddedPixels, AddedTokens, PixelLayout, TokenLayout, draw
from zsrobust.errors import ConfigError, ModelError, UnknownName, ZSRobustError
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

SHAPES = [{"shape": "frame", "width": 3}, {"shape": "patch", "size": 5}, {"shape": "full"}]
DEPTHS = ["shallow", "deep"]


@pytest.fixture(params=["clip", "siglip"])
def base(request: pytest.FixtureRequest) -> HuggingFaceEncoder:
    found: HuggingFaceEncoder = request.getfixturevalue(request.param)
    return found


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def added(base: HuggingFaceEncoder, *, std: float = 1.0, **layout: Any) -> AddedPixels:
    prompt = AddedPixels(PixelLayout(**layout), base.input_size)
    draw(dict(prompt.named_parameters()), std, seeded())
    return prompt


def appended(base: HuggingFaceEncoder, *, std: float = 1.0, **layout: Any) -> AddedTokens:
    prompt = AddedTokens(TokenLayout(**({"count": 4} | layout)), *tower.blocks_and_width(base.model))
    draw(dict(prompt.named_parameters()), std, seeded(1))
    return prompt


def both(base: HuggingFaceEncoder, *, depth: str = "deep") -> PromptedEncoder:
    return PromptedEncoder(base, added(base), appended(base, depth=depth, position="learned"))


def some_pixels(count: int = 3, size: int = 40) -> Tensor:
    return torch.rand(count, 3, size, size, generator=seeded(2))


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
    ("base", "layout"),
    [("clip", SHAPES[0]), ("siglip", SHAPES[1]), ("siglip", SHAPES[2]), ("clip", {"shape": "random-patch", "size": 6})],
    indirect=["base"],
)
def test_saved_and_loaded_it_is_the_same_model(base: HuggingFaceEncoder, layout: Any, tmp_path: Path) -> None:
    tokens = None if layout["shape"] == "full" else appended(base, depth="deep", position="learned")
    encoder = PromptedEncoder(base, added(base, where="before", **layout), tokens)
    folder = encoder.save_pretrained(tmp_path / "robust", provenance={"adapted_on": ["digits"], "method": "tecoa"})
    again = zr.load(folder)
    assert isinstance(again, PromptedEncoder)
    assert again.fingerprint() == encoder.fingerprint()
    assert again.describe_prompt() == encoder.describe_prompt()
    assert (again.name, again.provenance["method"]) == ("robust", "tecoa")
    assert again.samples == encoder.samples
    with torch.random.fork_rng(devices=[]):
        logits = []
        for one in (encoder, again):
            torch.manual_seed(0)
            head = TextHead.build(one, ("cat", "dog"), ("a {}",))
            logits.append(ZeroShotClassifier(one, head)(some_pixels()))
    assert torch.equal(*logits)
    # and once more, with the prompt's description as it was
    twice = zr.load(again.save_pretrained(tmp_path / "twice"))
    assert isinstance(twice, PromptedEncoder)
    assert twice.fingerprint() == encoder.fingerprint()
    assert not any("prompt" in key for key in twice.base.provenance)


def test_the_card_says_that_transformers_opens_another_model(clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    from transformers import AutoModel

    bare = clip.encode_pixels(some_pixels(size=32))
    encoder = both(clip)
    folder = encoder.save_pretrained(tmp_path / "robust")
    card = (folder / "README.md").read_text()
    assert "`transformers` alone opens only the unprompted\nbackbone" in card
    assert "library_name: zsrobust" in card
    assert '| prompt | {"pixel": {"shape": "frame"' in card
    assert "AutoProcessor" not in card
    with hf.quiet():
        theirs = AutoModel.from_pretrained(folder)
    found = theirs.get_image_features(pixel_values=clip.normalised(some_pixels(size=32))).pooler_output
    torch.testing.assert_close(found, bare, rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match=r"robust holds a prompted model: open it with zsrobust\.load$"):
        hf.from_folder(folder)
    # a plain model saved over it leaves nothing of the prompt
    assert isinstance(zr.load(clip.save_pretrained(folder)), HuggingFaceEncoder)
    with pytest.raises(ConfigError, match="'prompt' cannot be a key of the provenance"):
        clip.save_pretrained(folder, provenance={"prompt": {}})


def spoiled(folder: Path, how: str) -> None:
    file = folder / "prompt.safetensors"
    tensors = load_file(file)
    story = json.loads((folder / "zsrobust.json").read_text())["prompt"]
    match how:
        case "missing":
            file.unlink()
        case "undescribed":
            edit_json(folder / "zsrobust.json", prompt=None)
        case "truncated":
            file.write_bytes(file.read_bytes()[:-8])
        case "lacks":
            save_file({k: v for k, v in tensors.items() if not k.endswith("top")}, file)
        case "unexpected":
            save_file(tensors | {"prompt.other": torch.zeros(1)}, file)
        case "shape":
            save_file(tensors | {"prompt.tokens.tokens": torch.zeros(1, 4, 16)}, file)
        case "nan":
            save_file(tensors | {"prompt.pixel.top": torch.full_like(tensors["prompt.pixel.top"], torch.nan)}, file)
        case "half":
            save_file({k: v.half() for k, v in tensors.items()}, file)
        case "part":
            edit_json(folder / "zsrobust.json", prompt=story | {"sound": {}})
        case "key":
            edit_json(folder / "zsrobust.json", prompt=story | {"tokens": {"count": 4, "colour": 1}})
        case "value":
            edit_json(folder / "zsrobust.json", prompt=story | {"pixel": {"shape": "ring"}})


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("missing", "describes a prompt, but prompt.safetensors is missing"),
        ("undescribed", "has prompt.safetensors, but no description of it in zsrobust.json"),
        ("truncated", "prompt.safetensors is broken or incomplete"),
        ("lacks", "lacks tensor prompt.pixel.top"),
        ("unexpected", "has an unexpected tensor prompt.other"),
        ("shape", r"prompt.tokens.tokens is \(1, 4, 16\), not \(2, 4, 16\)"),
        ("nan", "prompt.pixel.top is not finite float32 numbers"),
        ("half", "is not finite float32 numbers"),
        ("part", "allowed are pixel and tokens, found"),
        ("key", "is not how a prompt is described"),
        ("value", "unknown pixel prompt 'ring'"),
    ],
)
def test_a_prompt_file_that_does_not_fit_is_refused(
    clip: HuggingFaceEncoder, tmp_path: Path, how: str, line: str
) -> None:
    folder = both(clip).save_pretrained(tmp_path / "robust")
    spoiled(folder, how)
    with pytest.raises(ModelError, match=line) as caught:
        from_folder(folder)
    assert "\n" not in str(caught.value)


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
