"""What every encoder is: pixels → features and texts → features, with its own resize, mean and std inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from zsrobust.geometry import Geometry


@runtime_checkable
class Encoder(Protocol):
    """The one interface between a two-tower model and everything else.

    Any object with these attributes and methods is an encoder; nothing has to be inherited. The attributes
    may be plain attributes or properties. An encoder that is also a ``torch.nn.Module`` can be adapted; then
    ``visual_parameters()`` says what its visual tower owns, as ``(name, parameter)`` pairs.

    Three more are optional. They change how the model is attacked and how fast, never what it predicts; without the
    first two a defence that is random, or has no useful gradient, is flagged and its robust accuracy is in doubt:

    - ``samples: int``: the encoder is random (noise, random resizing); attacks average values and gradients over so
      many draws (EOT), and a verdict is read off fresh draws. 1 or absent: the same pixels always give the same
      features.
    - ``encode_differentiable(pixels) -> Tensor``: features of the same shape as :meth:`encode_pixels` gives, from a
      smooth stand-in for what has no useful gradient (quantisation, JPEG). Attacks take their gradient from it and
      everything else from :meth:`encode_pixels` (BPDA).
    - ``lowered() -> context``: inside it :meth:`encode_pixels` computes fast in bfloat16. Absent: autocast.
    """

    @property
    def name(self) -> str:
        """What results call it, for example ``"tiny"`` or ``"openai/clip-vit-base-patch32"``."""

    @property
    def input_size(self) -> tuple[int, int]:
        """``(H, W)`` the visual tower takes."""

    @property
    def geometry(self) -> Geometry:
        """The checkpoint's own PIL geometry: what the ``model`` perturbation space starts from."""

    @property
    def logit_scale(self) -> float:
        """Factor on the cosine similarities (already exponentiated, 100.0 for OpenAI's CLIP)."""

    @property
    def provenance(self) -> Mapping[str, object]:
        """JSON-able: ``source``, ``revision``, ``adapted_on`` (task names) and, once adapted, how."""

    @property
    def resize_description(self) -> str:
        """The resize inside :meth:`encode_pixels`, stored with results: ``"torch bicubic, antialias"``."""

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Raw image features ``(B, D)`` of ``pixels (B, 3, h, w)``, float32 in [0, 1]; differentiable.

        Takes any ``h, w``: resizes to :attr:`input_size` where needed, then applies mean and std.
        Features are not normalised.
        """

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Raw text features ``(N, D)`` float32, without gradient, on the encoder's device."""
