"""Adversarial images as files, each judged again after rounding to 8 bits.

A float image that fools a model may not fool it any more once it is a file; so both verdicts are always kept.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsrobust.attacks.base import Attack
from zsrobust.attacks.checks import Verdict, enforce, judge
from zsrobust.encoders.base import Encoder
from zsrobust.evaluation import Attacked, classifier_for, device_of, in_space
from zsrobust.pixels import quantise, to_images, to_pixels
from zsrobust.records import CLEAN, Record
from zsrobust.run_folder import RunFolder, write_atomically, writing
from zsrobust.tasks import Task
from zsrobust.threat import Threat

FORMAT = "zsrobust.pictures/1"


def eight_bit(threat: Threat, adversarial: Tensor, pixels: Tensor) -> Tensor:
    """The adversarial images as 8-bit files hold them, still within an L∞ budget.

    Args:
        threat: The budget. L∞: where rounding to the nearest of 256 values would leave the ball, the value inside is
            taken. L2: rounding moves each channel by at most 1/510, and the size may exceed ε by that much.
        adversarial: (B, 3, H, W) in [0, 1].
        pixels: (B, 3, H, W) in [0, 1], the images.

    Returns:
        (B, 3, H, W), multiples of 1/255.
    """
    if threat.norm != "linf":
        return quantise(adversarial)
    # Half a float32 rounding error must not push a budget of exactly 4/255 down to 3.
    slack = 1e-4
    lower = ((pixels - threat.eps) * 255 - slack).ceil().clamp_min(0)
    upper = ((pixels + threat.eps) * 255 + slack).floor().clamp_max(255)
    rounded = (adversarial * 255).round()
    return torch.minimum(torch.maximum(rounded, lower), upper) / 255


def magnified(adversarial: Tensor, pixels: Tensor, threat: Threat) -> tuple[NDArray[np.uint8], float]:
    """The perturbation around mid-grey, magnified so that ±ε spans the range: (B, H, W, 3) uint8 and the factor.

    Where ε is not the change of a single pixel, the largest such change is what spans it.
    """
    largest = float((adversarial - pixels).abs().max())
    spanned = min(threat.eps, largest) if threat.norm == "linf" and threat.eps > 0 else largest
    magnification = float(max(1, math.floor(0.5 / max(spanned, 1 / 255))))
    return to_images((0.5 + magnification * (adversarial - pixels)).clamp(0, 1)), magnification


def png(image: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) uint8 → a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def top(logits: Tensor, class_names: Sequence[str], k: int = 3) -> list[list[object]]:
    """The k most probable classes of one image: (C,) logits → [[name, probability], …]."""
    probabilities, classes = logits.softmax(0).topk(min(k, len(class_names)))
    return [[class_names[c], round(p, 4)] for c, p in zip(classes.tolist(), probabilities.tolist(), strict=True)]


def verdict_word(verdict: Verdict, i: int, label: int) -> str:
    """``"broken"`` or ``"survived"``."""
    return "survived" if int(verdict.predictions[i]) == label else "broken"


class ImageExporter:
    """Writes every adversarial image of an evaluation: PNG files and an ``index.jsonl`` with both verdicts.

    Files are ``FOLDER/MODEL/TASK/THREAT-ATTACK/EXAMPLE.png``, of another seed than 0 in ``THREAT-ATTACK-seed-SEED``;
    use it as the ``watch`` of an evaluation.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __call__(self, attacked: Attacked) -> None:
        """Writes the batch.

        Raises:
            RunError: the folder cannot be written, or the disk is full.
        """
        threat = attacked.attack.threat
        # By the seed itself and not by its turn: a run that goes on may have had the first one before.
        seed = f"-seed-{attacked.seed}" if attacked.seed else ""
        names = attacked.model, attacked.task.name, f"{threat.describe()}-{attacked.attack.name}{seed}"
        place = self.folder.joinpath(*map(_file_name, names))
        labels = torch.from_numpy(attacked.task.labels[attacked.indices]).to(attacked.pixels.device)
        rounded = eight_bit(threat, attacked.found.pixels, attacked.pixels)
        ids = attacked.task.ids[attacked.indices].tolist()
        again = judge(attacked.classifier, rounded, labels, seed=attacked.seed, examples=ids)
        sizes = threat.size(rounded - attacked.pixels).tolist()
        lines = []
        for i, (index, image) in enumerate(zip(attacked.indices.tolist(), to_images(rounded), strict=True)):
            example, label = int(attacked.task.ids[index]), int(attacked.task.labels[index])
            write_atomically(place / f"{example}.png", png(image))
            lines.append(
                {
                    "example": example,
                    "label": attacked.task.class_names[label],
                    "prediction": attacked.task.class_names[int(attacked.found.predictions[i])],
                    "verdict": verdict_word(attacked.found, i, label),
                    "prediction_8bit": attacked.task.class_names[int(again.predictions[i])],
                    "verdict_8bit": verdict_word(again, i, label),
                    "size_8bit": sizes[i],
                }
            )
        _merge(place / "index.jsonl", lines)


def _merge(path: Path, lines: Sequence[dict[str, object]]) -> None:
    """Adds to an index one line for each example; what a killed run wrote about the same ones, or tore off, goes."""
    with writing(path):
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    fresh = {line["example"] for line in lines}
    kept = [old for old in before.split("\n")[:-1] if json.loads(old)["example"] not in fresh]
    text = "".join(line + "\n" for line in [*kept, *(json.dumps(line, ensure_ascii=False) for line in lines)])
    write_atomically(path, text.encode())


def _file_name(part: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.+" else "-" for c in part)


def draw(run: RunFolder, encoders: Sequence[Encoder], tasks: Sequence[Task], attack: Attack, *, seed: int) -> None:
    """One example of each task for the report: image, adversarial image, perturbation and predictions of each model.

    Random numbers are keyed by example, so attacking the one example again gives the image of the evaluation. Shown
    is the first example which every model has right when clean and, if there is one, the first model loses and the
    last keeps.
    """
    records = run.records.read()
    items = []
    for task in tasks:
        task = in_space(task, encoders[0], attack.threat.space)
        example = _telling([r for r in records if r.task == task.name and r.seed == seed], encoders, attack)
        if example is not None:
            drawing = _Drawing(run.path / "pictures", task, example, attack, seed, int(run.header["rows"]))
            items.append(drawing.draw(encoders))
    index = {"format": FORMAT, "items": items}
    write_atomically(run.path / "pictures" / "index.json", json.dumps(index, ensure_ascii=False, indent=1).encode())


def _telling(records: Sequence[Record], encoders: Sequence[Encoder], attack: Attack) -> int | None:
    """The id of the example to show, None where no model pair has one right when clean."""
    names = [encoder.name for encoder in encoders]
    right = [{r.example for r in records if r.model == name and r.attack == CLEAN and r.correct} for name in names]
    candidates = sorted(set.intersection(*right))
    threat = attack.threat.describe()
    kept = {(r.model, r.example): r.correct for r in records if r.attack == attack.name and r.threat == threat}
    telling = [e for e in candidates if not kept.get((names[0], e), True) and kept.get((names[-1], e), False)]
    return next(iter(telling or candidates), None)


@dataclass(frozen=True)
class _Drawing:
    """The pictures of one example."""

    folder: Path
    task: Task
    example: int
    attack: Attack
    seed: int
    rows: int

    def draw(self, encoders: Sequence[Encoder]) -> dict[str, object]:
        position = self.task.ids.tolist().index(self.example)
        label = int(self.task.labels[position])
        image = self.task.images([position])
        return {
            "task": self.task.name,
            "example": self.example,
            "label": self.task.class_names[label],
            "threat": self.attack.threat.describe(),
            "clean_png": self._save("clean", image[0]),
            "models": [self._model(encoder, image, label) for encoder in encoders],
        }

    def _model(self, encoder: Encoder, image: NDArray[np.uint8], label: int) -> dict[str, object]:
        classifier = classifier_for(encoder, self.task, rows=self.rows)
        pixels = to_pixels(image).to(device_of(encoder))
        labels = torch.tensor([label], device=pixels.device)
        outcome = self.attack.search(classifier, pixels, labels, seed=self.seed, examples=[self.example])
        threat = self.attack.threat
        adversarial, sizes = enforce(threat, outcome.pixels, pixels)
        rounded = eight_bit(threat, adversarial, pixels)
        clean, found, again = (
            judge(classifier, seen, labels, seed=self.seed, examples=[self.example])
            for seen in (pixels, adversarial, rounded)
        )
        perturbation, magnification = magnified(adversarial, pixels, threat)
        return {
            "model": encoder.name,
            "adversarial_png": self._save(f"{encoder.name}-adversarial", to_images(rounded)[0]),
            "perturbation_png": self._save(f"{encoder.name}-perturbation", perturbation[0]),
            "magnification": magnification,
            "clean_top": top(clean.logits[0], self.task.class_names),
            "adversarial_top": top(found.logits[0], self.task.class_names),
            "size": float(sizes[0]),
            "verdict": verdict_word(found, 0, label),
            "verdict_8bit": verdict_word(again, 0, label),
        }

    def _save(self, what: str, image: NDArray[np.uint8]) -> str:
        name = _file_name(f"{self.task.name}-{self.example}-{what}") + ".png"
        write_atomically(self.folder / name, png(image))
        return name
