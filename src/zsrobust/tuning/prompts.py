"""Visual prompts: the model stays as it is, and what every image brings along is trained.

Pixel prompts (Bahng et al. 2022, arXiv 2203.17274) and token prompts (Jia et al. 2022, arXiv 2203.12119) as the TeCoA
paper's code uses them; :mod:`zsrobust.encoders.visual_prompts` says what each is.
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from zsrobust.encoders.base import Encoder
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.encoders.prompted import PromptedEncoder
from zsrobust.encoders.tower import blocks_and_width
from zsrobust.encoders.visual_prompts import AddedPixels, AddedTokens, PixelLayout, TokenLayout, draw
from zsrobust.errors import ConfigError, ModelError, UnknownName
from zsrobust.randomness import generator
from zsrobust.tuning.base import Tuning
from zsrobust.tuning.weights import copied, trainable


@dataclass(frozen=True)
class _Prompt(Tuning):
    """What the three have in common: a prompted copy, of which only the prompt is trained."""

    @abstractmethod
    def parts(self, base: HuggingFaceEncoder, seed: int) -> tuple[AddedPixels | None, AddedTokens | None]:
        """The prompts for ``base``, at their random start."""

    def prepare(self, encoder: Encoder, *, seed: int) -> tuple[Encoder, dict[str, nn.Parameter]]:
        """A prompted copy and the prompt's parameters; see :class:`~zsrobust.tuning.base.Tuning`.

        Raises:
            ModelError: the encoder is not a CLIP or SigLIP of transformers, or it has a prompt already. Prompts do not
                stack; a prompted model can be adapted as a whole, with its prompt, by ``full``.
            ConfigError: the prompt does not fit into the image.
        """
        if isinstance(encoder, PromptedEncoder):
            raise ModelError(
                f"'{encoder.name}' already has a prompt, and prompts do not stack: start from the model without it, or "
                "adapt model and prompt together with tuning 'full'"
            )
        if not isinstance(encoder, HuggingFaceEncoder):
            raise ModelError(f"'{encoder.name}' cannot be prompted: it is not a CLIP or SigLIP of transformers")
        base: HuggingFaceEncoder = copied(encoder)
        prompted = PromptedEncoder(base, *self.parts(base, seed))
        return prompted, trainable(prompted.prompt_parameters())

    def finish(self, adapted: Encoder) -> Encoder:
        """The same encoder."""
        return adapted


@dataclass(frozen=True)
class PixelPrompt(_Prompt):
    """Numbers added to every image, inside the model.

    Attributes:
        shape: ``"frame"``, ``"patch"``, ``"random-patch"`` or ``"full"``, as in
            :class:`~zsrobust.encoders.visual_prompts.PixelLayout`; the paper's code has the first three.
        width: Of the frame, in pixels of the model's input; None: 30 of 224.
        size: Side of a patch, likewise.
        where: ``"after"`` normalisation, as in the paper's code, or ``"before"``.
        std: The start is drawn from N(0, std²), in the units of ``where``; 1 in the paper's code. 0: from the model as
            it is.
        samples: Places of a random patch that evaluation averages over; None: 20. Each step of adaptation draws one.

    Raises:
        ConfigError: a value that is not allowed.
    """

    shape: str = "frame"
    width: int | None = None
    size: int | None = None
    where: str = "after"
    std: float = 1.0
    samples: int | None = None
    name: str = "pixel-prompt"

    def __post_init__(self) -> None:
        self._layout()
        _check_std(self.std, zero=True)

    def _layout(self) -> PixelLayout:
        return PixelLayout(self.shape, self.width, self.size, self.where, self.samples)

    def parts(self, base: HuggingFaceEncoder, seed: int) -> tuple[AddedPixels, None]:
        """The pixel prompt at its start, which depends on the seed alone."""
        pixel = AddedPixels(self._layout(), base.input_size)
        draw(dict(pixel.named_parameters()), self.std, generator(seed, self.name))
        return pixel, None

    def describe(self) -> Mapping[str, object]:
        """Name and options."""
        return {"name": self.name, **self._layout().describe(), "std": self.std}


@dataclass(frozen=True)
class TokenPrompt(_Prompt):
    """Tokens that go through the visual tower with every image.

    Attributes:
        count: Tokens; 10 is the default of the paper's code.
        depth: ``"shallow"``, as in the paper's code, or ``"deep"``: every block has its own.
        position: ``"none"``, or ``"learned"``, which only changes the steps:
            :class:`~zsrobust.encoders.visual_prompts.TokenLayout`.
        std: The start is drawn from N(0, std²); 1 in the paper's code. ``"scaled"``: 1/√W for tokens of W numbers, how
            CLIP's own class token and positions start. CLIP normalises its input tokens, so there this changes not what
            the first prompts do but how far a step of the optimizer turns them.

    Raises:
        ConfigError: a value that is not allowed.
    """

    count: int = 10
    depth: str = "shallow"
    position: str = "none"
    std: float | Literal["scaled"] = 1.0
    name: str = "token-prompt"

    def __post_init__(self) -> None:
        self._layout()
        if self.std != "scaled":
            _check_std(self.std, zero=False)

    def _layout(self) -> TokenLayout:
        return TokenLayout(self.count, self.depth, self.position)

    def parts(self, base: HuggingFaceEncoder, seed: int) -> tuple[None, AddedTokens]:
        """The token prompts at their start, which depends on the seed alone; a learned position starts at 0."""
        blocks, width = blocks_and_width(base.model)
        tokens = AddedTokens(self._layout(), blocks, width)
        std = width**-0.5 if self.std == "scaled" else self.std
        draw({"tokens": tokens.tokens}, std, generator(seed, self.name))
        return None, tokens

    def describe(self) -> Mapping[str, object]:
        """Name and options."""
        return {"name": self.name, **self._layout().describe(), "std": self.std}


@dataclass(frozen=True)
class PixelTokenPrompt(_Prompt):
    """Both: what the paper's code trains unless told otherwise, a frame of 30 pixels and 10 tokens.

    Attributes:
        pixel: Options of :class:`PixelPrompt`.
        token: Options of :class:`TokenPrompt`.

    Raises:
        UnknownName: one of them has no such option.
        ConfigError: a value that is not allowed.
    """

    pixel: Mapping[str, Any] = field(default_factory=dict)
    token: Mapping[str, Any] = field(default_factory=dict)
    name: str = "pixel-token-prompt"

    def __post_init__(self) -> None:
        self._both()

    def _both(self) -> tuple[PixelPrompt, TokenPrompt]:
        return _made(PixelPrompt, self.pixel, "pixel"), _made(TokenPrompt, self.token, "token")

    def parts(self, base: HuggingFaceEncoder, seed: int) -> tuple[AddedPixels, AddedTokens]:
        """Both at the start that each would have alone."""
        pixel, token = self._both()
        return pixel.parts(base, seed)[0], token.parts(base, seed)[1]

    def describe(self) -> Mapping[str, object]:
        """Name, and the options of both."""
        pixel, token = ({k: v for k, v in part.describe().items() if k != "name"} for part in self._both())
        return {"name": self.name, "pixel": pixel, "token": token}


def _made(kind: Any, options: object, which: str) -> Any:
    known = [option for option in inspect.signature(kind).parameters if option != "name"]
    if not isinstance(options, Mapping):
        raise ConfigError(f"{which} must be a mapping of options, not {options!r}")
    for option in options:
        if option not in known:
            raise UnknownName(f"option of {which}", str(option), known)
    return kind(**options)


def _check_std(std: object, *, zero: bool) -> None:
    usable = isinstance(std, int | float) and not isinstance(std, bool) and math.isfinite(std)
    if not usable or not (std > 0 or (zero and std == 0)):  # type: ignore[operator]
        allowed = "at least 0" if zero else "above 0, or 'scaled'"
        raise ConfigError(f"std of a prompt's start must be {allowed}, not {std!r}")
