"""Measures the tiny CLIP on held-out pictures and writes its model card."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from tiny_data import enlarge, read_photos
from tiny_model import image_features, text_features
from transformers import CLIPModel, CLIPTokenizer

from zsrobust.tasks.world.views import VIEWS

_CARD = """\
---
license: mit
library_name: transformers
pipeline_tag: zero-shot-image-classification
---

# tiny: a CLIP small enough to ship

A complete Hugging Face CLIP checkpoint ({total} parameters) made for demonstrations and tests of zsrobust without a
network. It classifies 64x64 pictures by comparing them with texts, as any CLIP does. It is no model for real use.

## What it saw

* {single} renders of the micro-world (`zsrobust.tasks.world`) with one object, {count} with one to five objects and
  {glyph} with a digit or a letter, all from seeds that no task uses; captions mention a random part of what is there.
* {scan} imitations of scanned digits: strokes, white on black, reduced to 8x8 pixels and enlarged again. It saw no
  real scan.
* {photos} photographs of the ten CIFAR-10 classes (the training images, as JPEG; the coding costs a little accuracy
  against the original files), enlarged to 64x64.

So it has seen every kind of thing that the tasks ask about, all world compositions and all ten kinds of photograph
among them, just as a large CLIP has seen most things. "Zero-shot" here means: not *adapted* to a task. A task's test
pictures were never trained on.

## Architecture

`CLIPModel`: visual tower 64x64, patch 8, width 128, 5 layers, 4 heads ({visual} parameters); text tower width 128,
2 layers, 4 heads, context 32 ({text} parameters); projection to 128; `gelu`. Its own byte-level BPE tokenizer in
CLIP's format, {vocabulary} tokens. Pixels are resized bicubically and normalised with CLIP's mean and deviation.

## How it was made

```
{command}
```

Seed {seed}; {steps} steps of {batch} pictures, {minutes} minutes of training on a shared {threads}-core CPU, bfloat16
autocast. Loss: CLIP's symmetric loss in which every caption that is true of a picture is a positive, plus the
cross-entropy over the class names of each attribute in the templates of its task. In the first {partial} steps a
picture keeps half of its patches (FLIP). The same command goes on after an interruption. Another processor rounds
differently: weights are reproduced in their quality, not bit by bit.

## Zero-shot accuracy on clean test pictures

Templates of the task files, mean of the unit text features. Intervals: Wilson, 95 %. Mean over the world's tasks:
{mean} %. Digits are scikit-learn's scans; photographs are CIFAR-10's test images, as JPEG, with the template
"{template}".

| task | classes | n | accuracy, % | interval |
|---|---:|---:|---:|---|
{rows}

Nothing was done to make it robust to adversarial perturbations: that is left to zsrobust.

Licence: MIT.
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Zero-shot accuracy on one task: ``correct`` of ``n`` images, ``classes`` classes."""

    task: str
    classes: int
    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        z = 1.959964
        centre = (self.accuracy + z * z / (2 * self.n)) / (1 + z * z / self.n)
        spread = math.sqrt(self.accuracy * (1 - self.accuracy) / self.n + z * z / (4 * self.n**2))
        half = z * spread / (1 + z * z / self.n)
        return centre - half, centre + half


def measure(folder: Path, tasks: Path, photos: str | None, photo_templates: tuple[str, ...]) -> list[Result]:
    """Zero-shot accuracy on the test split of every world task, the scanned digits and held-out photographs.

    Args:
        folder: The model folder.
        tasks: The folder of task files.
        photos: Held-out photographs, as ``read_photos`` takes them, or None.
        photo_templates: Templates; photographs are measured with the first.
    """
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    results = []
    for path in sorted(tasks.glob("world-*.toml")):
        task = tomllib.loads(path.read_text())
        view = VIEWS[task["source"]["view"]]
        images = np.stack([view.image("test", i) for i in range(view.length("test"))])
        results.append(
            _zero_shot(
                model,
                tokenizer,
                task["name"],
                images,
                view.labels("test"),
                view.class_names,
                task["templates"],
            )
        )
    digits = tomllib.loads((tasks / "digits.toml").read_text())
    scans = load_digits()
    grey = np.repeat((scans.images * (255 / 16)).round().astype(np.uint8)[..., None], 3, axis=3)
    results.append(
        _zero_shot(model, tokenizer, "digits (all 1,797)", grey, scans.target, digits["classes"], digits["templates"])
    )
    if photos is not None:
        held = read_photos(photos, split="test")
        templates = list(photo_templates[:1])
        results.append(
            _zero_shot(model, tokenizer, "photographs", held.images, held.labels, held.class_names, templates)
        )
    for result in results:
        low, high = result.interval
        print(
            f"{result.task:24} {100 * result.accuracy:5.1f} % [{100 * low:.1f}, {100 * high:.1f}] n={result.n}",
            flush=True,
        )
    return results


@torch.no_grad()
def _zero_shot(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    task: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    templates: list[str],
) -> Result:
    """Classify (N, H, W, 3) uint8 images by the mean of each class's unit text features over the templates."""
    words = torch.stack([text_features(model, tokenizer, [t.format(n) for n in names]) for t in templates])
    head = torch.nn.functional.normalize(words.mean(dim=0), dim=-1)
    correct = 0
    for first in range(0, len(images), 250):
        pixels = torch.from_numpy(images[first : first + 250]).permute(0, 3, 1, 2).float() / 255
        predicted = (image_features(model, enlarge(pixels)) @ head.T).argmax(dim=1).numpy()
        correct += int((predicted == labels[first : first + 250]).sum())
    return Result(task=task, classes=len(names), correct=correct, n=len(images))


def write_card(
    folder: Path,
    results: list[Result],
    *,
    command: str,
    seed: int,
    seconds: float,
    steps: int,
    batch: int,
    partial: int,
    photos: int,
    renders: dict[str, int],
    template: str,
) -> None:
    """Write ``README.md`` into the model folder.

    Args:
        folder: The model folder.
        results: Measured accuracies.
        command: The command that made the weights.
        seed: Its seed.
        seconds: Seconds spent in training.
        steps: Number of training steps.
        batch: Pictures in a step.
        partial: Number of first steps in which pictures keep half of their patches.
        photos: Number of photographs seen.
        renders: Number of renders of each stream.
        template: The template that photographs were measured with.
    """
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    visual, text = (sum(p.numel() for p in tower.parameters()) for tower in (model.vision_model, model.text_model))
    card = _CARD.format(
        total=_thousands(sum(p.numel() for p in model.parameters())),
        visual=_thousands(visual),
        text=_thousands(text),
        vocabulary=model.config.text_config.vocab_size,
        photos=_thousands(photos),
        single=_thousands(renders["single"]),
        count=_thousands(renders["count"]),
        glyph=_thousands(renders["glyph"]),
        scan=_thousands(renders["scan"]),
        command=command,
        seed=seed,
        steps=_thousands(steps),
        batch=batch,
        partial=_thousands(partial),
        minutes=round(seconds / 60),
        threads=torch.get_num_threads(),
        template=template,
        mean=f"{100 * world_mean(results):.1f}",
        rows="\n".join(_row(result) for result in results),
    )
    (folder / "README.md").write_text(card)


def world_mean(results: list[Result]) -> float:
    """Mean accuracy over the world's tasks, each task counting the same."""
    return float(np.mean([result.accuracy for result in results if result.task.startswith("world-")]))


def _row(result: Result) -> str:
    low, high = result.interval
    numbers = f"{100 * result.accuracy:.1f} | {100 * low:.1f} to {100 * high:.1f}"
    return f"| {result.task} | {result.classes} | {_thousands(result.n)} | {numbers} |"


def _thousands(number: int) -> str:
    return f"{number:,}"
