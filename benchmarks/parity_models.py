"""Three small models of ten classes for comparing attack suites: made in seconds, from seeds, on the package's data.

- ``mlp``: 192 → 64 → 64 → 10 on scanned digits, 8×8.
- ``conv``: three convolutions and a linear layer on the same digits, enlarged to 16×16.
- ``sister``: a CLIP of two layers of width 64, the embedded ``tiny``'s smaller sister, on rendered shapes, 32×32.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import zsrobust as zr
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders.embedded import tiny_folder
from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder, quiet
from zsrobust.geometry import Geometry
from zsrobust.pixels import to_pixels
from zsrobust.tasks import Task
from zsrobust.text_head import TextHead

Model = nn.Module | ZeroShotClassifier
SEED = 0
SISTER = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "projection_dim": 64}
SISTER_SIZE, SISTER_PATCH, SISTER_SCALE, SISTER_ROWS = 32, 8, 20.0, 64


@dataclass(frozen=True)
class Specimen:
    """A model and images that it was not trained on.

    Attributes:
        name: ``mlp``, ``conv`` or ``sister``.
        model: Pixels → logits (B, 10).
        pixels: (n, 3, H, W) in [0, 1].
        labels: (n,) int64.
    """

    name: str
    model: Model
    pixels: Tensor
    labels: Tensor


def specimen(name: str, *, limit: int, folder: Path | None = None) -> Specimen:
    """A model by name, with its first ``limit`` test images (stratified, from a fixed seed).

    Args:
        name: One of :data:`MODELS`.
        limit: At most so many images.
        folder: Where the weights are kept, or found again; None: they are not kept.
    """
    build, data = MODELS[name]
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="parity-") as temporary:
            model = build(Path(temporary))
    else:
        model = build(folder)
    pixels, labels = images(data("test"), limit)
    return Specimen(name, model, pixels, labels)


def images(task: Task, limit: int) -> tuple[Tensor, Tensor]:
    """(n, 3, H, W) pixels and (n,) labels of a stratified subset."""
    chosen = task.take(limit, seed=SEED)
    return to_pixels(chosen.images(range(len(chosen)))), torch.from_numpy(chosen.labels.copy())


# The data


def scans(split: str) -> Task:
    return zr.task("digits", split=split)


def enlarged(split: str) -> Task:
    return scans(split).with_geometry(Geometry(resize=16))


def shapes(split: str) -> Task:
    return zr.task("world-shape", split=split).with_geometry(Geometry(resize=SISTER_SIZE))


# The models


def mlp(folder: Path) -> nn.Module:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    return _kept(folder / "mlp.pt", build, scans("train"), limit=600, epochs=60, lr=3e-3)


def conv(folder: Path) -> nn.Module:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip

    return _kept(folder / "conv.pt", build, enlarged("train"), limit=600, epochs=25, lr=3e-3)


def _kept(path: Path, build: Callable[[], nn.Module], task: Task, *, limit: int, epochs: int, lr: float) -> nn.Module:
    """The model in ``path``, or a new one that is trained and put there."""
    with repeatable():
        model = build()
        if path.exists():
            model.load_state_dict(torch.load(path, weights_only=True))
        else:
            train(model, list(model.parameters()), *images(task, limit), epochs=epochs, lr=lr)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), path)
    return model.eval()


def sister(folder: Path) -> ZeroShotClassifier:
    """Weights need gradients, as those of a model that a user loads for anything but zsrobust."""
    task, path = shapes("train"), folder / "sister"
    template = task.templates[0]
    if not (path / "config.json").exists():
        with repeatable():
            encoder = _newborn(folder / "sister-untrained")
            encoder.requires_grad_(True)

            def logits(pixels: Tensor) -> Tensor:
                # Through the model itself: encode_texts gives no gradient, and the text tower has to learn too.
                tokens = encoder.reader([template.format(name) for name in task.class_names])
                texts = encoder.model.get_text_features(**tokens).pooler_output
                features = (nn.functional.normalize(f, dim=1) for f in (encoder.encode_pixels(pixels), texts))
                return SISTER_SCALE * next(features) @ next(features).T

            train(logits, list(encoder.parameters()), *images(task, 12000), epochs=14, lr=1e-3)
            encoder.save_pretrained(path)
    encoder = from_folder(path, name="sister")
    head = TextHead.build(encoder, task.class_names, [template])
    return ZeroShotClassifier(encoder.requires_grad_(True), head, rows=SISTER_ROWS)


def _newborn(folder: Path) -> HuggingFaceEncoder:
    """The embedded model's folder with fewer and narrower layers and random weights."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    config = json.loads((tiny_folder() / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        config[tower] |= SISTER
    config["vision_config"] |= {"image_size": SISTER_SIZE, "patch_size": SISTER_PATCH}
    config |= {"projection_dim": SISTER["projection_dim"]}
    processor = json.loads((tiny_folder() / "preprocessor_config.json").read_text())
    processor |= {
        "size": {"shortest_edge": SISTER_SIZE},
        "crop_size": {"height": SISTER_SIZE, "width": SISTER_SIZE},
    }
    with quiet():
        model = CLIPModel(CLIPConfig(**config))
        with torch.no_grad():
            model.logit_scale.fill_(torch.tensor(SISTER_SCALE).log())
        model.save_pretrained(folder)
        CLIPTokenizer.from_pretrained(tiny_folder()).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return from_folder(folder)


MODELS: dict[str, tuple[Callable[[Path], Model], Callable[[str], Task]]] = {
    "mlp": (mlp, scans),
    "conv": (conv, enlarged),
    "sister": (sister, shapes),
}


# Training


@contextmanager
def repeatable() -> Iterator[None]:
    """One thread and a seed of its own: the same weights on every run of a machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            yield
    finally:
        torch.set_num_threads(threads)


def train(
    model: Callable[[Tensor], Tensor],
    parameters: list[nn.Parameter],
    pixels: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    lr: float,
    batch: int = 128,
) -> None:
    """Cross-entropy with AdamW and one cycle of the learning rate."""
    steps = epochs * (len(pixels) // batch)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for _ in range(epochs):
        for chosen in torch.randperm(len(pixels)).split(batch)[: len(pixels) // batch]:
            loss = nn.functional.cross_entropy(model(pixels[chosen]), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
    optimizer.zero_grad(set_to_none=True)
