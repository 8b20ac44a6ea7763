"""Prompts as ways of adapting: a step is that on paper, and the model under the prompt stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.encoders.small import save_siglip
from tests.fakes import CLASSES, Toy, task
from torch import Tensor

import zsrobust as zr
from zsrobust import checkpoint
from zsrobust.adaptation import adapt
from zsrobust.attacks.pgd import PGD
from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder
from zsrobust.encoders.prompted import PromptedEncoder
from zsrobust.errors import ConfigError, ModelError, UnknownName, ZSRobustError
from zsrobust.methods.base import Batch
from zsrobust.threat import Threat
from zsrobust.training_step import Step
from zsrobust.tuning import TUNINGS
from zsrobust.tuning.base import Tuning
from zsrobust.tuning.prompts import PixelPrompt, PixelTokenPrompt, TokenPrompt

THREAT = Threat("linf", "4/255")
LR, SCALE = 0.5, 10.0


def adapted(clip: HuggingFaceEncoder, tuning: Any, **options: Any) -> PromptedEncoder:
    given: dict[str, Any] = {
        "task": task(6, size=32), "attack": PGD(THREAT, 2), "epochs": 1, "batch_size": 6, "lr": LR, "warmup": 0.0,
        "progress": False,
    }  # fmt: skip
    found = adapt(clip, tuning=tuning, **(given | options))
    assert isinstance(found, PromptedEncoder)
    return found


# One step on paper


Features = Callable[[HuggingFaceEncoder, Tensor, dict[str, Tensor]], Tensor]


def framed(clip: HuggingFaceEncoder, points: Tensor, prompt: dict[str, Tensor]) -> Tensor:
    """Bahng et al.: f(normalise(x) + φ), φ four strips around nothing."""
    canvas = torch.zeros(3, 32, 32, dtype=points.dtype)
    canvas[:, :4], canvas[:, 28:] = prompt["prompt.pixel.top"], prompt["prompt.pixel.bottom"]
    canvas[:, 4:28, :4], canvas[:, 4:28, 28:] = prompt["prompt.pixel.left"], prompt["prompt.pixel.right"]
    found: Tensor = clip.model.get_image_features(pixel_values=(points - clip.mean) / clip.std + canvas).pooler_output
    return found


def with_tokens(clip: HuggingFaceEncoder, points: Tensor, prompt: dict[str, Tensor]) -> Tensor:
    """Jia et al., shallow, in the order of the TeCoA paper's code: [class, patches, prompts] before the first norm."""

    def append(_: object, __: object, out: Tensor) -> Tensor:
        return torch.cat([out, prompt["prompt.tokens.tokens"].expand(len(out), -1, -1)], 1)

    hook = clip.model.vision_model.embeddings.register_forward_hook(append)
    found: Tensor = clip.model.get_image_features(pixel_values=(points - clip.mean) / clip.std).pooler_output
    hook.remove()
    return found


def reference_loss(clip: HuggingFaceEncoder, features: Tensor, labels: Tensor) -> Tensor:
    """TeCoA: −log softmax(s · cos(z, t))_y, averaged over the batch, in float64."""
    rows = []
    for name in CLASSES:
        units = [clip.encode_texts([t.replace("{}", name)])[0] for t in ("a {}", "one {}")]
        rows.append(sum(u / u.norm() for u in units) / 2)
    cosines = (features / features.norm(dim=1, keepdim=True)) @ torch.stack([r / r.norm() for r in rows]).T
    loss: Tensor = -(SCALE * cosines).log_softmax(1)[torch.arange(len(labels)), labels].mean()
    return loss


@pytest.mark.parametrize(
    ("tuning", "features"), [(PixelPrompt(), framed), (TokenPrompt(count=4), with_tokens)], ids=["frame", "tokens"]
)
def test_one_step_of_tecoa_is_that_of_a_plain_reference(
    clip: HuggingFaceEncoder, tuning: Tuning, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(Step, "adversary", lambda *_: points)
    seen: dict[str, Any] = {}
    learn = Step.learn

    def watched(step: Step, found: Tensor, batch: Batch) -> Tensor:
        seen["start"] = {name: parameter.detach().double().clone() for name, parameter in step.parameters.items()}
        seen["labels"] = batch.labels
        seen["loss"] = learn(step, found, batch)
        seen["gradients"] = {name: parameter.grad.clone() for name, parameter in step.parameters.items()}
        result: Tensor = seen["loss"]
        return result

    monkeypatch.setattr(Step, "learn", watched)
    after = adapted(clip, tuning, method=zr.TeCoA(scale=SCALE))

    prompt = {name: tensor.requires_grad_(True) for name, tensor in seen["start"].items()}
    exact = clip.copy().double()
    loss = reference_loss(exact, features(exact, points.double(), prompt), seen["labels"])
    loss.backward()  # type: ignore[no-untyped-call]

    assert seen["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert dict(after.prompt_parameters()).keys() == prompt.keys()
    for name, updated in after.prompt_parameters():
        gradient = prompt[name].grad
        assert gradient is not None
        assert float(gradient.abs().max()) > 1e-4
        torch.testing.assert_close(seen["gradients"][name].double(), gradient, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(updated.double(), prompt[name].detach() - LR * gradient, rtol=1e-5, atol=1e-6)


# What is trained, and what is not

WAYS: list[Any] = [
    PixelPrompt(),
    PixelPrompt(shape="random-patch", size=6, where="before", std=0.1),
    TokenPrompt(depth="deep", position="learned", std="scaled"),
    PixelTokenPrompt(pixel={"shape": "full", "std": 0}, token={"count": 3}),
]


@pytest.mark.parametrize("tuning", WAYS, ids=lambda way: way.name)
def test_only_the_prompt_is_trained_and_the_model_under_it_stays(clip: HuggingFaceEncoder, tuning: Any) -> None:
    before = clip.fingerprint()
    prepared, parameters = tuning.prepare(clip, seed=0)
    assert [*parameters] == sorted(dict(prepared.prompt_parameters()))
    assert {id(p) for p in prepared.parameters() if p.requires_grad} == {id(p) for p in parameters.values()}
    after = adapted(clip, tuning, epochs=2, precision="bf16")
    assert clip.fingerprint() == after.base.fingerprint() == before
    for name, parameter in after.prompt_parameters():
        assert not torch.equal(parameter, parameters[name].detach()), name
    assert not any(parameter.requires_grad for parameter in after.parameters())
    assert after.name == f"{clip.name}+tecoa+{tuning.name}"
    assert after.provenance["adaptation"]["tuning"] == tuning.describe()  # type: ignore[index]


def test_the_start_depends_on_the_seed_alone(clip: HuggingFaceEncoder) -> None:
    def start(tuning: Any, seed: int) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in tuning.prepare(clip, seed=seed)[1].items()}

    first, again, other = (start(PixelPrompt(std=2.0), seed) for seed in (0, 0, 1))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, other[name])
        assert float(tensor.std()) == pytest.approx(2.0, rel=0.15)
        assert float(tensor.mean()) == pytest.approx(0.0, abs=0.3)
    scaled = start(TokenPrompt(count=200, std="scaled"), 0)["prompt.tokens.tokens"]
    assert float(scaled.std()) == pytest.approx(16**-0.5, rel=0.05)
    # together, each is what it is alone
    together = start(PixelTokenPrompt(pixel={"std": 2.0}), 0)
    alone = first | start(TokenPrompt(), 0)
    assert together.keys() == alone.keys()
    assert all(torch.equal(together[name], alone[name]) for name in alone)
    # a pixel prompt that starts at 0 starts at the model
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    bare = PixelPrompt(shape="full", std=0).prepare(clip, seed=0)[0]
    assert torch.equal(bare.encode_pixels(pixels), clip.encode_pixels(pixels))


def test_a_learned_position_makes_plain_steps_twice_as_long(clip: HuggingFaceEncoder) -> None:
    plain = adapted(clip, TokenPrompt(count=3), lr=1e-3)
    placed = adapted(clip, TokenPrompt(count=3, position="learned"), lr=0.5e-3)
    assert plain.tokens is not None
    assert placed.tokens is not None
    torch.testing.assert_close(plain.tokens(), placed.tokens(), rtol=1e-6, atol=1e-7)
    assert placed.tokens.position is not None
    assert float(placed.tokens.position.abs().max()) > 0


def test_siglip_is_prompted_too(tmp_path: Path) -> None:
    siglip = from_folder(save_siglip(tmp_path / "siglip"))
    after = adapted(siglip, PixelTokenPrompt(token={"depth": "deep"}), lr=0.05)
    assert after.base.fingerprint() == siglip.fingerprint()
    assert "prompt.tokens.tokens" in dict(after.prompt_parameters())
    assert (after.input_size, after.pixel.layout.width) == ((24, 24), 3)  # type: ignore[union-attr]


def test_an_interrupted_run_goes_on_to_the_same_prompt_and_opens_in_one_line(
    clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"batch_size": 2, "epochs": 2, "checkpoint_every": 2, "lr": 0.05}
    tuning = PixelTokenPrompt(token={"depth": "deep", "count": 2})
    expected = adapted(clip, tuning, **options)
    save = checkpoint.save

    def then_stop(folder: Path, position: checkpoint.Position, *rest: Any) -> Path:
        path = save(folder, position, *rest)
        if position.step == 4:
            raise KeyboardInterrupt
        return path

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", then_stop)
        with pytest.raises(KeyboardInterrupt):
            adapted(clip, tuning, run=tmp_path / "run", **options)
    resumed = adapted(clip, tuning, run=tmp_path / "run", **options)
    assert resumed.fingerprint() == expected.fingerprint()
    loaded = zr.load(resumed.save_pretrained(tmp_path / "model"))
    assert isinstance(loaded, PromptedEncoder)
    assert loaded.fingerprint() == expected.fingerprint()
    assert loaded.provenance["adapted_on"] == ["blobs"]


def test_a_prompted_model_is_adapted_as_a_whole_or_not_at_all(clip: HuggingFaceEncoder) -> None:
    once = adapted(clip, PixelPrompt())
    with pytest.raises(ModelError, match=r"already has a prompt, and prompts do not stack: .* with tuning 'full'$"):
        adapted(once, TokenPrompt())  # type: ignore[arg-type]
    twice = adapted(once, "full", lr=1e-3)  # type: ignore[arg-type]
    assert twice.base.fingerprint() != once.base.fingerprint()
    before, after = dict(once.visual_parameters()), dict(twice.visual_parameters())
    assert {name for name in before if not torch.equal(before[name], after[name])} >= {
        "prompt.pixel.top", "vision_model.embeddings.class_embedding",
    }  # fmt: skip
    with pytest.raises(ModelError, match="'toy' cannot be prompted: it is not a CLIP or SigLIP"):
        PixelPrompt().prepare(Toy(), seed=0)
    with pytest.raises(ConfigError, match="leaves nothing of 32x32"):
        PixelPrompt(width=16).prepare(clip, seed=0)


def test_they_are_in_the_catalogue_and_say_how_they_were_made() -> None:
    for name, kind in {
        "pixel-prompt": PixelPrompt, "token-prompt": TokenPrompt, "pixel-token-prompt": PixelTokenPrompt,
    }.items():  # fmt: skip
        assert TUNINGS[name] is kind
        assert isinstance(kind(), Tuning)
        assert kind().name == name
    pixel = {"shape": "frame", "where": "after", "std": 1.0}
    token = {"count": 10, "depth": "shallow", "position": "none", "std": 1.0}
    assert PixelPrompt().describe() == {"name": "pixel-prompt", **pixel}
    assert TokenPrompt().describe() == {"name": "token-prompt", **token}
    assert PixelTokenPrompt(pixel={"width": 4}).describe() == {
        "name": "pixel-token-prompt", "pixel": pixel | {"width": 4}, "token": token,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("make", "error", "line"),
    [
        (lambda: PixelPrompt(shape="farme"), UnknownName, "did you mean 'frame'"),
        (lambda: PixelPrompt(std=-1.0), ConfigError, "must be at least 0, not -1"),
        (lambda: PixelPrompt(std="scaled"), ConfigError, "must be at least 0, not 'scaled'"),  # type: ignore[arg-type]
        (lambda: TokenPrompt(count=0), ConfigError, "at least 1, not 0"),
        (lambda: TokenPrompt(std=0.0), ConfigError, "must be above 0, or 'scaled', not 0"),
        (lambda: TokenPrompt(std=float("inf")), ConfigError, "must be above 0"),
        (lambda: PixelTokenPrompt(pixel={"widht": 3}), UnknownName, "option of pixel 'widht'; did you mean 'width'"),
        (lambda: PixelTokenPrompt(token=3), ConfigError, "token must be a mapping of options, not 3"),  # type: ignore[arg-type]
        (lambda: PixelTokenPrompt(token={"count": 0}), ConfigError, "at least 1, not 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    make: Callable[[], object], error: type[ZSRobustError], line: str
) -> None:
    with pytest.raises(error, match=line):
        make()
