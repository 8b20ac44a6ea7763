"""One image of the user's, attacked: what ``zsrobust attack`` shows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsrobust.attacks.base import Attack, Outcome
from zsrobust.attacks.binding import Asked, expand
from zsrobust.attacks.checks import Verdict, enforce, judge
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders import load
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.evaluation import device_of
from zsrobust.geometry import Geometry
from zsrobust.losses import margin
from zsrobust.pictures import eight_bit, magnified
from zsrobust.pixels import to_images, to_pixels
from zsrobust.randomness import Draws
from zsrobust.tasks.images import decode
from zsrobust.tasks.loader import NATIVE_SIDE
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

TEMPLATE = "This is a photo of a {}"


@dataclass(frozen=True)
class Attacked:
    """What became of the image.

    Attributes:
        attack: Name of the attack that found it: of a suite, the first that succeeded, else the one that came closest.
        class_names: C names.
        geometry: How the image was resized and cropped, in words.
        label: Index of the true class, or of the model's own clean prediction where none was given.
        target: Index of the class the attack was to reach; None: any other than the label.
        clean: The model's verdict on the image.
        found: On the adversarial image.
        rounded: On the adversarial image as an 8-bit file holds it.
        size: Distance of ``found`` from the image in the threat's norm, in pixel range [0, 1].
        size_8bit: Distance of ``rounded``.
        image: (H, W, 3) uint8 the adversarial image of ``rounded``.
        perturbation: (H, W, 3) uint8, around mid-grey.
        magnification: Of ``perturbation``.
    """

    attack: str
    class_names: tuple[str, ...]
    geometry: str
    label: int
    target: int | None
    clean: Verdict
    found: Verdict
    rounded: Verdict
    size: float
    size_8bit: float
    image: NDArray[np.uint8]
    perturbation: NDArray[np.uint8]
    magnification: float

    def fooled(self, verdict: Verdict) -> bool:
        """Whether the attack has what it wanted at ``verdict``."""
        return _fooled(verdict, self.label, self.target)


def attack_image(
    image: str | Path,
    encoder: Encoder,
    class_names: Sequence[str],
    attack: Asked,
    *,
    label: str | None = None,
    target: str | None = None,
    templates: Sequence[str] = (TEMPLATE,),
    seed: int = 0,
    source: Callable[[str], Encoder] = load,
) -> Attacked:
    """Attacks one image file; with a suite, until one of its attacks succeeds.

    In ``native`` space a square image of at most 224 pixels keeps its size and others get the paper's 256/224 resize
    and crop; in ``model`` space the checkpoint's own geometry is used.

    Args:
        image: A file.
        encoder: The model.
        class_names: At least two, distinct.
        attack: With its threat.
        label: One of the names; None: what the model says of the image.
        target: One of the names, not the label; None: any wrong class will do.
        templates: Prompt templates with one ``{}`` each.
        seed: Of the attack's random numbers, and of a random model's draws.
        source: Loads the model that a transfer attack names.

    Raises:
        ConfigError: fewer than two classes, a name that is not among them, or an attack that knows no targets.
        DataError: the image cannot be read.
    """
    names = tuple(class_names)
    if len(names) < 2:
        raise ConfigError(f"an attack needs two or more labels to confuse, not {len(names)}: --labels 'a cat, a dog'")
    decoded = decode(Path(image))
    geometry = encoder.geometry if attack.threat.space == "model" else _native(decoded.height, decoded.width)
    pixels = to_pixels(geometry(decoded)[None]).to(device_of(encoder))
    # One image needs no rows to fill up.

    def classifier(one: Encoder) -> ZeroShotClassifier:
        return ZeroShotClassifier(one, TextHead.of_classes(one, names, tuple(templates)), rows=1)

    def classifier_of(one: str | Encoder) -> ZeroShotClassifier:
        return classifier(source(one) if isinstance(one, str) else one)

    model = classifier(encoder)
    given = None if label is None else _index(label, names)
    chosen = None if target is None else _index(target, names)
    clean = _judged(model, pixels, given or 0, seed)
    truth = int(clean.predictions[0]) if given is None else given
    if chosen == truth:
        raise ConfigError(f"the target '{names[truth]}' is the label itself; name another class")
    attacks = expand(attack, len(names), classifier_of)
    best = _first_success(attacks, model, pixels, truth, chosen, seed)
    adversarial = best.verdict.pixels
    rounded = eight_bit(attack.threat, adversarial, pixels)
    perturbation, magnification = magnified(adversarial, pixels, attack.threat)
    return Attacked(
        attack=best.attack,
        class_names=names,
        geometry=geometry.describe(),
        label=truth,
        target=chosen,
        clean=_judged(model, pixels, truth, seed),
        found=best.verdict,
        rounded=_judged(model, rounded, truth, seed),
        size=best.size,
        size_8bit=float(attack.threat.size(rounded - pixels)[0]),
        image=to_images(rounded)[0],
        perturbation=perturbation[0],
        magnification=magnification,
    )


def _native(height: int, width: int) -> Geometry:
    small = height == width <= NATIVE_SIDE
    return Geometry(size=(height, width)) if small else Geometry(resize=256, crop=224)


def _index(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise UnknownName("label", name, names)
    return list(names).index(name)


def _judged(model: ZeroShotClassifier, pixels: Tensor, label: int, seed: int) -> Verdict:
    return judge(model, pixels, torch.tensor([label], device=pixels.device), seed=seed, examples=[0])


def _fooled(verdict: Verdict, label: int, target: int | None) -> bool:
    prediction = int(verdict.predictions[0])
    return prediction != label if target is None else prediction == target


@dataclass(frozen=True)
class _Found:
    """What one attack found, and how far that is from success, in logits."""

    attack: str
    verdict: Verdict
    size: float
    lack: float


def _first_success(
    attacks: Sequence[Attack],
    model: ZeroShotClassifier,
    pixels: Tensor,
    label: int,
    target: int | None,
    seed: int,
) -> _Found:
    """The attacks in order, until one succeeds; if none does, what came closest."""
    best: _Found | None = None
    for attack in attacks:
        with Draws(pixels.device, seed, attack.name, attack.threat.describe(), 0):
            outcome = _search(attack, model, pixels, label, target, seed)
        adversarial, sizes = enforce(attack.threat, outcome.pixels, pixels)
        verdict = _judged(model, adversarial, label, seed)
        aim = torch.full_like(verdict.predictions, target or 0)
        lack = verdict.margins if target is None else -margin(verdict.logits, aim)
        found = _Found(attack.name, verdict, float(sizes[0]), float(lack[0]))
        if _fooled(verdict, label, target):
            return found
        best = found if best is None or found.lack < best.lack else best
    assert best is not None
    return best


def _search(
    attack: Attack, model: ZeroShotClassifier, pixels: Tensor, label: int, target: int | None, seed: int
) -> Outcome:
    labels = torch.tensor([label], device=pixels.device)
    if target is None:
        return attack.search(model, pixels, labels, seed=seed, examples=[0])
    if "targets" not in inspect.signature(attack.search).parameters:
        raise ConfigError(f"attack '{attack.name}' cannot aim at a target; pgd:50 can")
    search: Callable[..., Outcome] = attack.search  # not every attack's takes targets
    targets = torch.tensor([target], device=pixels.device)
    return search(model, pixels, labels, seed=seed, examples=[0], targets=targets)


def describe_size(threat: Threat, size: float) -> str:
    """A size in words: ``4.0/255 at most in any channel of any pixel``, or a Euclidean length."""
    if threat.norm == "linf":
        return f"{size * 255:.1f}/255 at most in any channel of any pixel"
    if threat.norm == "patch":
        return f"inside one square of {100 * size:.3g} % of the area"
    return f"Euclidean length {size:.3g} over the image"
