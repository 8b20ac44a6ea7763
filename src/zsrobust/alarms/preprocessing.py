"""Mean and std applied twice, or not at all, or pixels × 255: read off what the first layer of the tower is given.

Plain grey images pass any resize unchanged, so what reaches the first layer is a · grey + b; one normalisation has
a = 1 / std.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from zsrobust.alarms.base import Alarm
from zsrobust.alarms.randomness import draw
from zsrobust.alarms.subject import Subject
from zsrobust.alarms.watch import Seen, watched

_GREYS = (0.25, 0.5, 0.75)
# Published stds lie between 0.19 and 0.5, slopes so between 2 and 5.3; twice the narrow ones give 10 and more.
_STEEP = 7.0
_TIMES_255 = 60.0
_NEAR = 0.08
_DEPTH = 4


def check(subject: Subject) -> list[Alarm]:
    """One alarm, or none."""
    slopes = [slope for module, given in _first_layers(subject) if (slope := _slope(subject, given)) is not None]
    if not slopes:
        return []
    std = _declared_std(subject)
    kind = _steep(slopes[0]) if std is None else _against(slopes, std)
    if kind is None:
        return []
    name, what = kind
    text = f"the first layer is given {float(slopes[0].mean()):.3g} × pixel + a constant: {what}"
    evidence = {"slope": float(slopes[0].mean()), "declared_std": float(std.mean()) if std is not None else "none"}
    return [Alarm(name, "suspected", text, evidence)]


def _against(slopes: Sequence[Tensor], std: Tensor) -> tuple[str, str] | None:
    """Beside a std that the encoder declares."""
    if any(_near(slope * std, 1.0) for slope in slopes):
        return None
    first = slopes[0]
    if _near(first * std**2, 1.0):
        return "preprocessed-twice", "the model's mean and std are applied twice"
    if _near(first * std / 255, 1.0) or _near(first / 255, 1.0):
        return "wrong-preprocessing", "its pixels seem to be in [0, 255], not in [0, 1]"
    if _near(first * std * 255, 1.0) or _near(first * 255, 1.0):
        return "wrong-preprocessing", "its pixels seem to be divided by 255 twice"
    if _near(first, 1.0) and not _near(std, 1.0):
        return "wrong-preprocessing", "the model's mean and std are not applied"
    return _steep(first)


def _steep(slope: Tensor) -> tuple[str, str] | None:
    """Without a declared std."""
    if float(slope.mean()) >= _TIMES_255:
        return "wrong-preprocessing", "its pixels seem to be in [0, 255], not in [0, 1]"
    if float(slope.mean()) >= _STEEP:
        return "preprocessed-twice", "a mean and std seem to be applied twice (once gives 2 to 5)"
    return None


def _near(values: Tensor, wanted: float) -> bool:
    return bool(((values / wanted - 1).abs() < _NEAR).all())


def _first_layers(subject: Subject) -> list[tuple[nn.Module, Tensor]]:
    """Convolutions of three channels, or else the first layer of all, with what three grey images give them."""
    greys = torch.tensor(_GREYS, device=subject.pixels.device).view(-1, 1, 1, 1)
    seen = _watch(subject, greys.expand(-1, *subject.pixels.shape[1:]).clone())
    images = [(module, given) for module, given in seen.entries if given.dim() == 4 and given.shape[1] == 3]
    return images or seen.entries[:1]


def _watch(subject: Subject, pixels: Tensor) -> Seen:
    with subject.quiet(), torch.no_grad(), draw(0), watched() as seen:
        subject.classifier(pixels)
    return seen


def _slope(subject: Subject, given: Tensor) -> Tensor | None:
    """(3,), or (1,) where channels cannot be told apart; None: not the pixels, or no straight line."""
    if given.dim() == 4 and given.shape[:2] == (len(_GREYS), 3):
        low, middle, high = given.float().mean((2, 3))
    else:
        if given.shape[0] % len(_GREYS) or not _as_many(subject, given.numel() // len(_GREYS)):
            return None
        low, middle, high = given.float().reshape(len(_GREYS), -1)
        slopes = (high - low)[high != low]
        if len(slopes) <= low.numel() / 2 or len(slopes.div(slopes.abs().max()).mul(1e3).round().unique()) > 3:
            return None
    if not bool(((middle - (low + high) / 2).abs() <= 0.02 * (high - low).abs() + 1e-6).all()):
        return None
    slope = ((high - low) / (_GREYS[-1] - _GREYS[0])).abs()
    typical: Tensor = slope[slope > 0].median()[None]
    return slope if len(slope) == 3 else typical


def _as_many(subject: Subject, numbers: int) -> bool:
    """As many as an image has, at its own size or at the model's."""
    size = getattr(getattr(subject.classifier, "encoder", None), "input_size", None)
    return numbers in (subject.pixels[0].numel(), 3 * size[0] * size[1] if size is not None else -1)


def _declared_std(subject: Subject) -> Tensor | None:
    for thing in _within(getattr(subject.classifier, "encoder", subject.classifier), _DEPTH):
        std = getattr(thing, "std", None)
        numbers = std.flatten().tolist() if isinstance(std, Tensor) else std
        if isinstance(numbers, list | tuple) and len(numbers) == 3 and all(isinstance(s, float) for s in numbers):
            return torch.tensor(numbers, device=subject.pixels.device)
    return None


def _within(thing: object, depth: int) -> Iterator[object]:
    """An encoder, then what it is made of, nearest first: wrappers keep the wrapped one in an attribute."""
    level, known = [thing], {id(thing)}
    for _ in range(depth):
        yield from level
        inside = [part for one in level for part in _parts(one)]
        level = [part for part in {id(part): part for part in inside}.values() if id(part) not in known]
        known |= {id(part) for part in level}


def _parts(thing: object) -> list[object]:
    children = thing.children() if isinstance(thing, nn.Module) else ()
    attributes = vars(thing).values() if hasattr(thing, "__dict__") else ()
    return [*children, *(value for value in attributes if hasattr(value, "__dict__") and not isinstance(value, type))]
