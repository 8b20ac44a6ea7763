"""Models, encoders and tasks of a few numbers, which fulfil the same interfaces as real ones."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from zsrobust.geometry import Geometry
from zsrobust.randomness import generator
from zsrobust.tasks import Task
from zsrobust.tasks.source import Source

SHAPE = (3, 4, 5)
"""Of a small image."""


def images(count: int, seed: int = 0, *, shape: Sequence[int] = SHAPE, inner: bool = False) -> Tensor:
    """(count, 3, H, W) in [0, 1]; ``inner``: away from the border of the box."""
    pixels = torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))
    return 0.4 + 0.2 * pixels if inner else (pixels * 1.4 - 0.2).clamp(0, 1)


def predicted(model: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        labels: Tensor = model(pixels).argmax(1)
    return labels


class Linear(nn.Module):
    """Logits that are linear in the pixels: its worst case is known in closed form."""

    def __init__(self, weight: Tensor, bias: Tensor, *, rows: int | None = None) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.rows = rows
        self.forwards = 0
        self.rows_seen = 0

    @classmethod
    def random(cls, classes: int, shape: Sequence[int], *, seed: int = 0, scale: float = 1.0) -> Linear:
        draw = generator("linear", seed)
        weight = torch.randn(classes, int(np.prod(shape)), generator=draw)
        return cls(weight * scale, torch.randn(classes, generator=draw) * scale)

    def forward(self, pixels: Tensor) -> Tensor:
        self.forwards += 1
        self.rows_seen += len(pixels)
        return pixels.flatten(1) @ self.weight.T + self.bias


class Bumpy(nn.Module):
    """Logits that go up and down many times within a small ball, so that random starts matter."""

    def __init__(self, shape: Sequence[int], classes: int, *, seed: int = 0, frequency: float = 20.0) -> None:
        super().__init__()
        draw, width = generator("bumpy", seed), int(np.prod(shape))
        self.inner = nn.Parameter(frequency * torch.randn(width, 40, generator=draw) / width**0.5)
        self.outer = nn.Parameter(torch.randn(40, classes, generator=draw))

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.flatten(1) @ self.inner).sin() @ self.outer


class Toy(nn.Module):
    """A two-tower encoder of a few hundred weights.

    Text features are a linear map of numbers that depend on the text alone. It counts how often each tower runs.
    """

    resize_description = "torch bilinear"

    def __init__(self, *, name: str = "toy", size: int = 6, width: int = 8, seed: int = 0, scale: float = 10.0) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self.provenance: dict[str, object] = {"source": "tests"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.visual = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * (size - 2) ** 2, width)
            )
            self.textual = nn.Linear(16, width)
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.pixel_calls = self.text_calls = 0
        self.requires_grad_(False)
        self.eval()

    @property
    def input_size(self) -> tuple[int, int]:
        return self.size, self.size

    @property
    def geometry(self) -> Geometry:
        return Geometry(resize=self.size, crop=self.size)

    @property
    def logit_scale(self) -> float:
        return float(self.log_scale.detach().exp())

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        self.pixel_calls += 1
        if tuple(pixels.shape[-2:]) != self.input_size:
            pixels = nn.functional.interpolate(pixels, size=self.input_size, mode="bilinear")
        features: Tensor = self.visual(pixels - 0.5)
        return features

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        self.text_calls += 1
        features: Tensor = self.textual(torch.stack([torch.randn(16, generator=generator("text", t)) for t in texts]))
        return features

    def visual_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.visual.named_parameters(prefix="visual")

    def copy(self) -> Toy:
        return copy.deepcopy(self)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()


@dataclass
class Arrays(Source):
    """Images that are in memory."""

    pixels: Any = None

    def name(self, row: int) -> str:
        return f"row {row}"

    def content(self, row: int) -> bytes:
        return bytes(self.pixels[row].tobytes())

    def image(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row])


CLASSES = ("cat", "dog", "bird", "fish")


def task(n: int = 24, *, size: int = 6, classes: Sequence[str] = CLASSES, name: str = "blobs", seed: int = 0) -> Task:
    """A task of random images, each tinted by its class; ids begin at 100, so that they are not positions."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % len(classes)
    images = draw.integers(0, 256, (n + 100, size, size, 3), dtype=np.uint8)
    for row, label in enumerate(labels.tolist()):
        images[row + 100, ..., label % 3] = images[row + 100, ..., label % 3] // 2 + (0 if label < 3 else 127)
    source = Arrays(where="memory", kind="folder", labels=labels, pixels=images)
    return Task(
        name=name, version=1, description="", split="train", class_names=tuple(classes), templates=("a {}", "one {}"),
        follows_from=(), geometry=Geometry(), ids=np.arange(n) + 100, labels=labels, source=source, of=n,
    )  # fmt: skip


def labelled_by(encoder: Any, given: Task, *, wrong: Sequence[int] = ()) -> Task:
    """The task with the encoder's own predictions as labels, but for the positions ``wrong``."""
    from zsrobust.attacks.checks import judge
    from zsrobust.evaluation import classifier_for
    from zsrobust.pixels import to_pixels

    count = len(given.class_names)
    pixels = to_pixels(given.images(range(len(given))))
    labels = judge(
        classifier_for(encoder, given), pixels, torch.zeros(len(given), dtype=torch.int64)
    ).predictions.numpy()
    labels = labels.copy()
    labels[list(wrong)] = (labels[list(wrong)] + 1) % count
    return replace(given, labels=labels)
