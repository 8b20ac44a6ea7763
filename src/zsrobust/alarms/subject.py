"""What the alarms look at: a classifier, a few examples, and what was asked of it once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zsrobust.alarms.randomness import draw
from zsrobust.alarms.watch import Seen, watched
from zsrobust.attacks.base import Model
from zsrobust.errors import ConfigError
from zsrobust.passes import float32_only, frozen
from zsrobust.randomness import uniform
from zsrobust.threat import Threat

Found = TypeVar("Found")

MOST = 64
REPEATS = 4
ROWS = 32
"""Of one pass, at most."""
_ROUNDING = 2.0**-20
"""Of a logit, relative to the largest: float32 through a deep tower, with room to spare."""


@dataclass(eq=False)
class Subject:
    """A classifier on trial.

    Attributes:
        classifier: Pixels → logits; may declare ``samples`` and ``surrogate``.
        pixels: (n, 3, H, W) in [0, 1], 1 ≤ n ≤ 64.
        labels: (n,) int64.
        threat: The budget in question.
        seed: Key of the random numbers of the check-up.
        others: Other models for the same classes, to transfer attacks from.
    """

    classifier: Model
    pixels: Tensor
    labels: Tensor
    threat: Threat
    seed: int = 0
    others: Sequence[Model] = field(default=())
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.pixels) <= MOST or len(self.labels) != len(self.pixels):
            raise ConfigError(
                f"a check-up takes 1 to {MOST} examples with their labels, "
                f"not {len(self.pixels)} with {len(self.labels)} labels"
            )

    def once(self, name: str, measure: Callable[[], Found]) -> Found:
        """What ``measure`` gives, remembered under ``name``: alarms share their passes."""
        if name not in self._known:
            self._known[name] = measure()
        found: Found = self._known[name]
        return found

    @property
    def samples(self) -> int:
        """Draws that the model declares."""
        return int(getattr(self.classifier, "samples", 1))

    @property
    def surrogate(self) -> Model | None:
        """The stand-in that the model declares for its gradient."""
        declared: Model | None = getattr(self.classifier, "surrogate", None)
        return declared

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """What all passes run in: weights frozen, float32, and a model in training mode keeps its statistics."""
        with ExitStack() as stack:
            stack.enter_context(frozen(self.classifier))
            stack.enter_context(float32_only(self.pixels.device))
            for module in self._roots():
                stack.enter_context(_kept(module))
            yield

    def _roots(self) -> list[nn.Module]:
        candidates = (self.classifier, getattr(self.classifier, "encoder", None))
        return [module for module in candidates if isinstance(module, nn.Module)]

    def look(self, pixels: Tensor, *, number: int = 0, model: Model | None = None) -> Tensor:
        """Logits (m, C) float32 without a gradient; two looks with one ``number`` see the same draw of a random model.

        Several draws are averaged only where the question is a verdict; see :meth:`verdict`.
        """
        asked = model or self.classifier
        with self.quiet(), torch.no_grad(), draw(number):
            return torch.cat([asked(part).float() for part in torch.split(pixels, ROWS)])

    def verdict(self, pixels: Tensor) -> Tensor:
        """Logits (m, C), the mean over as many draws as the model declares."""
        return torch.stack([self.look(pixels, number=self.seed + 1 + i) for i in range(self.samples)]).mean(0)

    def climbed(self, pixels: Tensor) -> Tensor:
        """Logits (m, C) as an attack differentiates them: values of the model, the gradient of its surrogate if any."""
        if self.surrogate is None:
            return self.classifier(pixels).float()
        with torch.no_grad():
            own = self.classifier(pixels).float()
        logits = self.surrogate(pixels).float()
        return logits + (own - logits).detach()

    def slope(self, pixels: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, bool]:
        """Gradient (m, 3, H, W) of per-example values of the logits, as an attack is given it; m at most 32.

        Returns:
            The gradient, the logits it was computed at, and whether autograd reaches the pixels at all.
        """
        with self.quiet(), torch.enable_grad(), draw(0):
            points = pixels.detach().requires_grad_(True)
            logits = self.climbed(points)
            gradient = None
            if logits.requires_grad:
                (gradient,) = torch.autograd.grad(objective(logits).sum(), points, allow_unused=True)
        connected = gradient is not None
        return torch.zeros_like(points) if gradient is None else gradient.float(), logits.detach(), connected

    @cached_property
    def logits(self) -> Tensor:
        """(n, C) of the images, one draw."""
        return self.look(self.pixels)

    @cached_property
    def repeats(self) -> list[Tensor]:
        """Logits of the same images in the same shape, each time another draw."""
        return [self.look(self.pixels, number=i) for i in range(1, REPEATS)]

    @cached_property
    def noisy(self) -> Tensor:
        """(n, 3, H, W) random points at the border of the ball."""
        keys = [(self.seed, "alarm", "noise", i) for i in range(len(self.pixels))]
        return self.threat.random_start(self.pixels, uniform(keys, self.pixels.shape[1:], device=self.pixels.device))

    @cached_property
    def spread(self) -> Tensor:
        """(n,) distance from the highest logit to the lowest: the unit in which changes are judged."""
        return self.logits.amax(1) - self.logits.amin(1)

    @cached_property
    def rounding(self) -> Tensor:
        """(n,) how far float32 alone may move a logit."""
        return _ROUNDING * self.logits.abs().amax(1)

    @cached_property
    def seen(self) -> list[Seen]:
        """What happens inside the forward pass of one image: of the image itself, and of a random point near it."""
        found = []
        for pixels in (self.pixels[:1], self.noisy[:1]):
            with self.quiet(), torch.no_grad(), draw(0), watched() as seen:
                self.classifier(pixels)
            found.append(seen)
        return found

    @cached_property
    def right(self) -> Tensor:
        """(n,) bool: which images are classified correctly."""
        return self.verdict(self.pixels).argmax(1) == self.labels


@contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """Buffers of modules in training mode are put back: a forward pass moves the statistics of a batch norm."""
    training = {id(buffer): buffer for m in module.modules() if m.training for buffer in m.buffers(recurse=False)}
    before = {key: buffer.clone() for key, buffer in training.items()}
    try:
        yield
    finally:
        for key, buffer in training.items():
            buffer.copy_(before[key])
