"""Every planted defence raises its alarm; honest models raise none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests import planted
from tests.encoders.small import save_siglip
from tests.fakes import CLASSES, Linear, Toy, labelled_by, task
from torch import Tensor, nn

import zsrobust as zr
from zsrobust.alarms.base import Alarm
from zsrobust.alarms.checkup import QUICK, full, quick
from zsrobust.alarms.subject import Subject
from zsrobust.attacks.base import Model
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders.base import Encoder
from zsrobust.encoders.huggingface import from_folder
from zsrobust.pixels import to_pixels
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

SIZE = 12
PLANTS = [(name, kind) for name, kinds in planted.ENCODERS.items() for kind in kinds]


def images(count: int = 16, size: int = SIZE, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 3, size, size, generator=draw) * 1.4 - 0.2).clamp(0, 1)


def classifier(encoder: Encoder) -> ZeroShotClassifier:
    return ZeroShotClassifier(encoder, TextHead.build(encoder, CLASSES, ["a {}", "one {}"]))


def subject(model: Model, pixels: Tensor, *, threat: str = "linf:4/255", seed: int = 0) -> Subject:
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    return Subject(model, pixels, labels, Threat.parse(threat), seed=seed)


def names(alarms: list[Alarm]) -> set[str]:
    return {alarm.name for alarm in alarms}


@pytest.mark.parametrize(("name", "kind"), PLANTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_defence_raises_its_alarm(name: str, kind: type[planted.Wrapped]) -> None:
    found = quick(subject(classifier(kind(Toy(size=SIZE))), images()))
    assert name in names(found)
    # What follows from a cause may be named beside it; what does not, may not.
    follows = {"bypassed": {"wrong-gradient"}, "training-mode": {"randomised"}, "optimises-inside": {"wrong-gradient"}}
    assert names(found) <= {name} | follows.get(name, set())


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_probabilities_in_place_of_logits(scale: float) -> None:
    model = planted.Softmaxed(classifier(Toy(size=SIZE)), scale)
    assert "probabilities-as-logits" in names(quick(subject(model, images())))


@pytest.mark.parametrize("kind", [*planted.HONEST, *planted.DECLARED], ids=lambda kind: kind.__name__)
def test_who_is_honest_or_says_what_it_is_raises_none(kind: type[planted.Wrapped]) -> None:
    assert quick(subject(classifier(kind(Toy(size=SIZE))), images())) == []


# Honest models


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(432, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3),
        nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def fitted(model: nn.Module, steps: int) -> nn.Module:
    """Trained by heart on noise: confident, and as curved as small models get."""
    pixels, labels = images(100), torch.arange(100) % 10
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(pixels), labels).backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("build", [mlp, convolutional])
@pytest.mark.parametrize("steps", [0, 60])
@pytest.mark.parametrize("threat", ["linf:8/255", "l2:0.5"])
def test_honest_networks_raise_none(build, steps: int, threat: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fitted(build(), steps)
        assert quick(subject(model, images(), threat=threat)) == []


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (10, 0.01)])
def test_honest_linear_models_raise_none(classes: int, scale: float) -> None:
    model = Linear.random(classes, (3, SIZE, SIZE), scale=scale)
    assert full(subject(model, images(8), threat="linf:8/255")) == []


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("native", [6, SIZE])
def test_honest_encoders_of_any_scale_raise_none(scale: float, native: int) -> None:
    for seed in range(2):
        assert quick(subject(classifier(Toy(size=SIZE, scale=scale, seed=seed)), images(size=native))) == []


def test_random_clip_and_siglip_raise_none(random_clip_folder: Path, tmp_path: Path) -> None:
    for folder in (random_clip_folder, save_siglip(tmp_path / "siglip")):
        assert quick(subject(classifier(from_folder(folder)), images())) == []


def test_the_embedded_model_raises_none_clean_or_with_other_weights() -> None:
    clip, world = zr.load("tiny"), zr.task("world-shape", limit=8)
    changed, draw = clip.copy(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, weights in changed.visual_parameters():
            weights += 0.2 * weights.std(correction=0) * torch.randn(weights.shape, generator=draw)
    pixels = to_pixels(world.images(range(8)))
    for encoder in (clip, changed):
        model = ZeroShotClassifier(encoder, TextHead.build(encoder, world.class_names, world.templates))
        assert quick(subject(model, pixels)) == []


# The check-up itself


def test_the_full_check_up_of_an_honest_model_raises_none_and_says_what_it_does() -> None:
    encoder, said = Toy(size=SIZE), []
    data = labelled_by(encoder, task(16, size=SIZE), wrong=[3])
    model, pixels = classifier(encoder), to_pixels(data.images(range(16)))
    assert full(Subject(model, pixels, torch.tensor(data.labels), Threat("linf", "8/255")), said.append) == []
    assert set(QUICK) < set(said)


def test_the_same_subject_gives_the_same_alarms_and_nobodys_random_numbers_are_used() -> None:
    pixels = images()
    found = []
    for _ in range(2):
        model = classifier(planted.Noisy(Toy(size=SIZE)))
        target = Subject(model, pixels, torch.zeros(16, dtype=torch.int64), Threat("linf", "4/255"), seed=7)
        before = torch.random.get_rng_state()
        found.append([alarm.to_flag() for alarm in quick(target)])
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.rand(3)
    assert found[0] == found[1]


def test_the_model_is_left_as_it_was() -> None:
    encoder = planted.Normalising(Toy(size=SIZE))
    encoder.requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    target = subject(classifier(encoder), images())
    encoder.load_state_dict(before)
    assert "training-mode" in names(quick(target))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert encoder.norm.training
    assert not encoder.inner.training
    assert all(p.requires_grad and p.grad is None for p in encoder.parameters())
