"""TTC: test-time counterattacks.

Xing, Zhao and Sebe, *CLIP is Strong Enough to Fight Back*, CVPR 2025, arXiv 2503.03613; with f the visual tower:

    δ₀ ~ U(−ε, ε),        τ = ‖f(x + δ₀) − f(x)‖ / ‖f(x)‖
    δᵢ₊₁ = Π( δᵢ + α · sign ∇_δ ‖f(x + δᵢ) − f(x)‖² ),        i = 0 … N−1
    δ = Σᵢ wᵢ δᵢ,  wᵢ ∝ exp(β i),  i = 0 … N    if τ < threshold,  else δ = δ₀;        the features are f(x + δ)

Π keeps δ in [−ε, ε] and x + δ in [0, 1]. Details and defaults as in the authors' code (Sxing2/
CLIP-Test-time-Counterattacks, code/test_time_counterattack.py and TTC.sh). Theirs, and not kept: τ is computed with the
original CLIP when an adversarially fine-tuned checkpoint is defended, here always with the model that is defended; and
all of it runs there under float16 autocast.

Attacked as there, the counterattack is applied to images that were made for the model without it. An adaptive attack
goes through it: the loop is unrolled and differentiated, derivatives of derivatives included. A sign has no useful
derivative, so that of the soft sign g / (|g| + m) stands in for it, m the mean of |g| over the image; values stay those
of the real sign (a straight-through estimate, as in BPDA, Athalye et al. 2018, arXiv 1802.00420). The threshold has no
derivative and gets none. That the draw of δ₀ differs each time is met by averaging (EOT).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from zsrobust.defences.base import Defence, Encode, least, whole
from zsrobust.defences.options import Length
from zsrobust.errors import ConfigError

if TYPE_CHECKING:
    from zsrobust.encoders.base import Encoder


DRAWS = 5
"""Draws that attacks and verdicts average over. Each costs an unrolled counterattack for every step of an attack, so
these are fewer than the usual twenty; a final number is worth ``samples=20``."""


class TTC(Defence):
    """``base`` on images that counterattack first, at the size that they are given in, before the model's resize.

    δ₀ comes from torch's global generator on the CPU.

    Attributes:
        steps: N, at least 1.
        eps: ε, in pixel range [0, 1].
        step_size: α, likewise.
        threshold: Of τ, at and above which an image keeps δ₀.
        beta: β.
        samples: Draws that attacks and verdicts average over.
    """

    title = "ttc"

    def __init__(
        self,
        base: Encoder,
        *,
        steps: int = 2,
        eps: Length = 4 / 255,
        step_size: Length = 1 / 255,
        threshold: float = 0.2,
        beta: float = 2.0,
        samples: int = DRAWS,
    ) -> None:
        """Wrap ``base``.

        Raises:
            ConfigError: an option that is not allowed.
        """
        whole(self.title, "steps", steps, 1)
        whole(self.title, "samples", samples, 2)
        for option, value in (("threshold", threshold), ("beta", beta)):
            least(self.title, option, value, 0)
        for option, length in (("eps", eps), ("step_size", step_size)):
            least(self.title, option, length, 0)
            if not 0 < length <= 1:
                raise ConfigError(f"{option} of defence 'ttc' must be above 0 and at most 1, not {length:g}")
        super().__init__(
            base, steps=steps, eps=eps, step_size=step_size, threshold=threshold, beta=beta, samples=samples
        )
        self.steps, self.eps, self.step_size = steps, eps, step_size
        self.threshold, self.beta, self.draws = threshold, beta, samples

    @property
    def samples(self) -> int:
        """Draws that an attack and a verdict average over: its own, or the inner model's if those are more."""
        return max(self.draws, super().samples)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Raw features ``(B, D)`` of ``pixels (B, 3, h, w)`` in [0, 1] after their counterattack.

        A gradient that is asked of it takes the counterattack for a constant.
        """
        delta = self.counterattack(pixels.detach(), self._start(pixels)).detach()
        features: Tensor = self.base.encode_pixels(pixels + delta)
        return features

    @property
    def encode_differentiable(self) -> Encode:
        """:meth:`encode_pixels` with the counterattack unrolled, and a soft derivative in the place of the sign's."""
        return self._unrolled

    def _unrolled(self, pixels: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.inner(pixels + self.counterattack(pixels.detach(), self._start(pixels)).detach())
        return self.inner(pixels + self.counterattack(pixels, self._start(pixels), unrolled=pixels.requires_grad))

    def counterattack(self, pixels: Tensor, start: Tensor, *, unrolled: bool = False) -> Tensor:
        """δ ``(B, 3, h, w)`` for ``pixels`` in [0, 1].

        Args:
            pixels: ``(B, 3, h, w)``.
            start: δ₀ before it is cut to the box, likewise.
            unrolled: Keep the graph, so that δ can be differentiated by the pixels, with the soft sign's derivative.
        """
        # Fused attention has no second derivative; in plain operations it has.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if unrolled else nullcontext():
            own = _precise(self.inner(pixels) if unrolled else self._value(pixels))
            deltas = [self._projected(start, pixels)]
            tau = torch.zeros(0)
            for i in range(self.steps):
                point = deltas[-1] if unrolled else deltas[-1].detach()
                point = point if point.requires_grad else point.requires_grad_(True)
                shift = _precise(self.inner(pixels + point)) - own
                if i == 0:
                    tau = (shift.norm(dim=1) / own.norm(dim=1).clamp_min(1e-30)).detach()
                (slope,) = torch.autograd.grad(shift.square().sum(), point, create_graph=unrolled)
                deltas.append(self._projected(point + self.step_size * _sign(slope), pixels))
        weights = torch.softmax(self.beta * torch.arange(len(deltas), dtype=torch.float32, device=pixels.device), 0)
        weighted = sum(weight * delta for weight, delta in zip(weights, deltas, strict=True))
        return torch.where((tau < self.threshold).view(-1, 1, 1, 1), weighted, deltas[0])

    @torch.no_grad()
    def _value(self, pixels: Tensor) -> Tensor:
        return self.inner(pixels)

    def _start(self, pixels: Tensor) -> Tensor:
        """δ₀ ~ U(−ε, ε), as large as ``pixels``."""
        return self.eps * (2 * torch.rand(pixels.shape) - 1).to(pixels)

    def _projected(self, delta: Tensor, pixels: Tensor) -> Tensor:
        """Cut to the ball and to the box."""
        delta = delta.clamp(-self.eps, self.eps)
        return torch.maximum(torch.minimum(delta, 1 - pixels), -pixels)


def _precise(features: Tensor) -> Tensor:
    """In float32 at least: their differences are small."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def _sign(slope: Tensor) -> Tensor:
    """The sign of g, with the derivative of g / (|g| + mean |g|); (B, 3, h, w) → the same."""
    mean = slope.detach().abs().mean((1, 2, 3), keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
    soft = slope / (slope.abs() + mean)
    return soft + (slope.sign() - soft).detach()
