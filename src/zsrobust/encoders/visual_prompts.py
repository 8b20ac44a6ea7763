"""Visual prompts: numbers added to every image, and tokens that every image brings along.

Pixel prompts are those of Bahng et al., *Exploring Visual Prompts for Adapting Large-Scale Models*, 2022, arXiv
2203.17274; token prompts those of Jia et al., *Visual Prompt Tuning*, ECCV 2022, arXiv 2203.12119. Where they leave a
choice it is made as in the code of the TeCoA paper (cvlab-columbia/ZSRobust4FoundationModel, models/prompters.py and
replace/model.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.errors import ConfigError, UnknownName

SHAPES = ("frame", "patch", "random-patch", "full")
PLACES = ("after", "before")
DEPTHS = ("shallow", "deep")
POSITIONS = ("none", "learned")
SHARE = 30 / 224
"""Width of a frame, side of a patch: 30 of 224 pixels in the code of both papers."""
DRAWS = 20
"""Over so many places of a random patch an attack averages, as standard AutoAttack does for random models."""


@dataclass(frozen=True)
class PixelLayout:
    """Where a pixel prompt is.

    Attributes:
        shape: ``"frame"`` along the border; ``"patch"`` in the top left corner; ``"random-patch"`` at another place for
            every image and every call; ``"full"``, the whole image.
        width: Of the frame, in pixels of the model's input; None: 30/224 of its smaller side.
        size: Side of a patch, likewise.
        where: Added ``"after"`` normalisation, in units of the normalised image, or ``"before"`` it, in units of
            pixels in [0, 1]. Either way the sum is not clamped, so the two can express the same prompts, and differ in
            what a start and a learning rate mean: by the factor std of the channel.
        samples: Places of a random patch that an attack and a verdict average over; None: 20. Other shapes are not
            random and take none.

    Raises:
        UnknownName: no such shape or place.
        ConfigError: a number that is not allowed, or that the shape does not have.
    """

    shape: str = "frame"
    width: int | None = None
    size: int | None = None
    where: str = "after"
    samples: int | None = None

    def __post_init__(self) -> None:
        _one_of("pixel prompt", self.shape, SHAPES)
        _one_of("place of a pixel prompt", self.where, PLACES)
        for key, owners in _OWNERS.items():
            value: int | None = getattr(self, key)
            if value is None:
                continue
            if self.shape not in owners:
                raise ConfigError(f"{key} is for the pixel prompt {' and '.join(owners)}, not for '{self.shape}'")
            _whole(f"a pixel prompt's {key}", value, least=2 if key == "samples" else 1)

    def fitted(self, input_size: tuple[int, int]) -> PixelLayout:
        """The same for images of ``input_size`` (H, W), without open defaults.

        Raises:
            ConfigError: it does not fit into the image.
        """
        side = min(input_size)
        extent = max(1, round(SHARE * side))
        usual = {"width": extent, "size": extent, "samples": DRAWS}
        own = [key for key, owners in _OWNERS.items() if self.shape in owners]
        chosen: dict[str, Any] = {key: getattr(self, key) or usual[key] for key in own}
        found = replace(self, **chosen)
        shown = "x".join(map(str, input_size))
        if found.width is not None and 2 * found.width >= side:
            raise ConfigError(
                f"a frame of {found.width} pixels leaves nothing of {shown}: at most {(side - 1) // 2}, or 'full'"
            )
        if found.size is not None and found.size > side:
            raise ConfigError(f"a patch of {found.size} pixels does not fit into a {shown} image")
        return found

    def describe(self) -> dict[str, object]:
        """What is set, JSON-able; keyword arguments that give the same layout."""
        return {key: value for key, value in asdict(self).items() if value is not None}


_OWNERS = {"width": ("frame",), "size": ("patch", "random-patch"), "samples": ("random-patch",)}


@dataclass(frozen=True)
class TokenLayout:
    """What token prompts there are.

    Attributes:
        count: Tokens.
        depth: ``"shallow"``: appended to the embedded image. ``"deep"``: each block gets tokens of its own, in place of
            what the block before made of its own.
        position: ``"none"``, or ``"learned"``: a position embedding, 0 at first, is added to the appended tokens. A
            learned token with a learned position is the same set of functions: it changes the steps (both get the same
            gradient, so plain SGD moves their sum twice as far), not what can be learned.

    Raises:
        UnknownName: no such depth or position.
        ConfigError: no tokens.
    """

    count: int
    depth: str = "shallow"
    position: str = "none"

    def __post_init__(self) -> None:
        _whole("the count of token prompts", self.count, least=1)
        _one_of("depth of token prompts", self.depth, DEPTHS)
        _one_of("position of token prompts", self.position, POSITIONS)

    def describe(self) -> dict[str, object]:
        """JSON-able; keyword arguments that give the same layout."""
        return asdict(self)


class AddedPixels(nn.Module):
    """A pixel prompt: (B, 3, H, W) → the same with the prompt added. Zero until it is drawn or loaded.

    A frame is four strips, as in the paper's code; the others are one tensor called ``pixels``. A random patch takes
    its places from torch's global generator on the CPU, one for each image, so that images fail independently; the
    paper's code draws one for the whole batch, and never the last row or column.
    """

    def __init__(self, layout: PixelLayout, input_size: tuple[int, int]) -> None:
        """A prompt for images of ``input_size`` (H, W)."""
        super().__init__()
        self.layout = layout = layout.fitted(input_size)
        self.input_size = height, width = input_size
        if layout.shape == "frame":
            edge = layout.width or 0
            self.top, self.bottom = _zeros(3, edge, width), _zeros(3, edge, width)
            self.left, self.right = _zeros(3, height - 2 * edge, edge), _zeros(3, height - 2 * edge, edge)
        else:
            side = (height, width) if layout.size is None else (layout.size, layout.size)
            self.pixels = _zeros(3, *side)

    @property
    def samples(self) -> int:
        """Draws to average over; 1 unless the place is random."""
        return self.layout.samples or 1

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, 3, H, W)."""
        shape, (height, width) = self.layout.shape, self.input_size
        if shape == "frame":
            inside = self.left.new_zeros(3, self.left.shape[1], width - 2 * self.left.shape[2])
            middle = torch.cat([self.left, inside, self.right], 2)
            return image + torch.cat([self.top, middle, self.bottom], 1)
        if shape == "random-patch":
            return image + self._scattered(len(image))
        side = self.pixels.shape[1:]
        return image + nn.functional.pad(self.pixels, (0, width - side[1], 0, height - side[0]))

    def _scattered(self, count: int) -> Tensor:
        """(count, 3, H, W), zero but for the patch, each at a place of its own."""
        (height, width), side = self.input_size, self.pixels.shape[1]
        top, left = (torch.randint(0, whole - side + 1, (count,)).to(self.pixels.device) for whole in (height, width))
        along = torch.arange(side, device=self.pixels.device)
        rows, columns = (top[:, None] + along)[:, :, None], (left[:, None] + along)[:, None, :]
        canvas = self.pixels.new_zeros(count, 3, height, width)
        canvas[torch.arange(count, device=canvas.device)[:, None, None], :, rows, columns] = self.pixels.movedim(0, -1)
        return canvas

    def describe(self) -> Mapping[str, object]:
        """The layout, JSON-able."""
        return self.layout.describe()


class AddedTokens(nn.Module):
    """Token prompts: () → (L, P, W) for :func:`zsrobust.encoders.tower.features`. Zero until drawn or loaded.

    They stand after the image's own tokens, [class, patches, prompts]: where they stand makes no difference to a tower
    without a mask, whose only sense of order are the positions that the image's tokens were given before.
    """

    def __init__(self, layout: TokenLayout, blocks: int, width: int) -> None:
        """Prompts for a tower of so many blocks, with tokens of so many numbers."""
        super().__init__()
        self.layout = layout
        self.tokens = _zeros(blocks if layout.depth == "deep" else 1, layout.count, width)
        self.position = _zeros(layout.count, width) if layout.position == "learned" else None

    def forward(self) -> Tensor:
        """(L, P, W)."""
        if self.position is None:
            return self.tokens
        return torch.cat([self.tokens[:1] + self.position, self.tokens[1:]])

    def describe(self) -> Mapping[str, object]:
        """The layout, JSON-able."""
        return self.layout.describe()


@torch.no_grad()
def draw(parameters: Mapping[str, nn.Parameter], std: float, generator: torch.Generator) -> None:
    """Fills each parameter from N(0, std²), in the order of their names; the generator is one on the CPU."""
    for _, parameter in sorted(parameters.items()):
        parameter.copy_(std * torch.randn(parameter.shape, generator=generator))


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def _one_of(kind: str, given: object, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise UnknownName(kind, str(given), allowed)


def _whole(what: str, given: object, *, least: int) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise ConfigError(f"{what} must be a whole number of at least {least}, not {given!r}")
