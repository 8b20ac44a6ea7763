"""The CLIP and SigLIP families of transformers 5, as encoders.

Weights are float32 whatever the file holds, mean, std and size are the checkpoint's own, and nothing that a
checkpoint brings is ever run. SigLIP's ``logit_bias`` shifts every logit alike: it changes neither the
prediction nor a softmax cross-entropy, and is ignored.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zsrobust.encoders import golden, patches, saving, tower, weights
from zsrobust.encoders import preprocessing as images
from zsrobust.encoders import texts as prompts
from zsrobust.encoders.compiling import CompiledTower
from zsrobust.encoders.fingerprints import beside_weights, digest
from zsrobust.encoders.lowered import Lowered
from zsrobust.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from zsrobust.geometry import Geometry

ATTENTIONS = ("sdpa", "eager")

# model type → class in transformers, and what the visual tower owns of it
_FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "clip": ("CLIPModel", ("vision_model.", "visual_projection.")),
    "siglip": ("SiglipModel", ("vision_model.",)),
}
_REFUSED = {
    "siglip2": "SigLIP 2 NaFlex takes patches of varying shape, so there is no fixed pixel grid to perturb; "
    "the fixed-resolution SigLIP 2 checkpoints (model_type 'siglip') work",
    "clip_vision_model": "it has no text tower",
    "siglip_vision_model": "it has no text tower",
    "clip_text_model": "it has no visual tower",
    "siglip_text_model": "it has no visual tower",
}


class HuggingFaceEncoder(nn.Module):
    """A ``CLIPModel`` or ``SiglipModel`` behind the :class:`~zsrobust.encoders.base.Encoder` protocol.

    Made by :func:`from_folder`, in evaluation mode and with every parameter frozen; adaptation unfreezes what
    it trains.

    Attributes:
        model: The transformers model itself.
        reader: Its tokenizer.
        preprocessing: Its mean, std, size and geometry.
        name: What results call it.
        provenance: Where it comes from and what it was adapted on.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        reader: prompts.TextReader,
        preprocessing: images.Preprocessing,
        *,
        name: str,
        provenance: Mapping[str, object],
    ) -> None:
        """Take over ``model`` (frozen from here on) with what belongs to it; see the attributes."""
        super().__init__()
        self.model: Any = model
        patches.install(model)
        self.reader = reader
        self.preprocessing = preprocessing
        self.name = name
        self.provenance: Mapping[str, object] = dict(provenance)
        for key in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, key), dtype=torch.float32)
            self.register_buffer(key, values.view(1, 3, 1, 1), persistent=False)
        self._inside: dict[int, Any] = {}  # by thread: another one's verdicts are computed in float32 meanwhile
        self._lower = Lowered(model)
        self._tower = CompiledTower()
        self.requires_grad_(False)
        self.eval()

    @property
    def input_size(self) -> tuple[int, int]:
        """``(H, W)`` of the visual tower."""
        return self.preprocessing.input_size

    @property
    def geometry(self) -> Geometry:
        """The checkpoint's own PIL resize and crop."""
        return self.preprocessing.geometry

    @property
    def resize_description(self) -> str:
        """The resize inside :meth:`encode_pixels`, as stored with results."""
        return f"torch {self.preprocessing.torch_mode}, antialias"

    @property
    def logit_scale(self) -> float:
        """``exp`` of the checkpoint's parameter."""
        return float(self.model.logit_scale.detach().exp().item())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Raw image features ``(B, D)`` of ``pixels (B, 3, h, w)``, float32 in [0, 1]; differentiable.

        Resize, mean and std stay float32 under autocast. The resized image is not clamped: bicubic overshoot
        would otherwise have zero gradient exactly at the sharp edges.
        """
        return self.features_of(self.normalised(self.resized(pixels)))

    def resized(self, pixels: Tensor) -> Tensor:
        """First part of :meth:`encode_pixels`: ``(B, 3, h, w)`` → ``(B, 3, H, W)``, still in units of pixels."""
        if tuple(pixels.shape[-2:]) == self.input_size:
            return pixels
        with torch.autocast(pixels.device.type, enabled=False):
            return nn.functional.interpolate(
                pixels, size=self.input_size, mode=self.preprocessing.torch_mode, antialias=True, align_corners=False
            )

    def normalised(self, image: Tensor) -> Tensor:
        """Second part: ``(B, 3, H, W)`` less mean, by std."""
        with torch.autocast(image.device.type, enabled=False):
            return (image - self.mean) / self.std

    def features_of(self, image: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Third part: raw features ``(B, D)`` of resized and normalised images.

        ``tokens (L, P, W)`` are prompts, as :func:`zsrobust.encoders.tower.features` takes them.
        """
        lowered = self._inside.get(get_ident())
        if lowered is None:
            return self._tower(self.model, image, tokens, lowered=False)
        with torch.autocast(image.device.type, enabled=False):
            return self._tower(lowered, image.bfloat16(), tokens, lowered=True).float()

    def forward(self, pixels: Tensor) -> Tensor:
        """:meth:`encode_pixels`, so that hooks and ``DistributedDataParallel`` see the call."""
        return self.encode_pixels(pixels)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Raw text features ``(N, D)`` on the encoder's device; float32 and without gradient."""
        if isinstance(texts, str):
            raise ConfigError(f"encode_texts takes a sequence of texts, not one string ('{texts[:40]}')")
        tokens = {key: value.to(self.device) for key, value in self.reader(list(texts)).items()}
        with torch.autocast(self.device.type, enabled=False):
            return tower.pooled(self.model.get_text_features(**tokens))

    def visual_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """``(name in the checkpoint, parameter)`` of everything the visual tower owns."""
        prefixes = _FAMILIES[self.model.config.model_type][1]
        return ((name, value) for name, value in self.model.named_parameters() if name.startswith(prefixes))

    def set_attention(self, attention: str) -> None:
        """Switch between ``"sdpa"`` and ``"eager"`` attention; equal up to rounding, not in speed."""
        if attention not in ATTENTIONS:
            raise ConfigError(f"attention '{attention}' is not one of {', '.join(ATTENTIONS)}")
        self.model.set_attn_implementation(attention)
        self._lower = Lowered(self.model)
        self.set_compiled(self._tower.passes)

    @property
    def attention(self) -> str:
        """What :meth:`set_attention` has set."""
        return str(self.model.config.vision_config._attn_implementation)

    @property
    def compiled(self) -> str:
        """What :meth:`set_compiled` has set; ``"none"`` where the compiler has failed."""
        return "none" if self._tower.failed else self._tower.passes

    def set_compiled(self, passes: str) -> None:
        """Which passes :mod:`~zsrobust.encoders.compiling` compiles: ``"none"``, ``"lowered"`` or ``"gradients"``."""
        self._tower = CompiledTower(passes)

    @contextmanager
    def lowered(self) -> Iterator[None]:
        """Inside, :meth:`encode_pixels` runs a bfloat16 copy of the visual tower: fast and rough."""
        self._inside[get_ident()] = self._lower.tower(weight for _, weight in self.visual_parameters())
        try:
            yield
        finally:
            self._inside.pop(get_ident(), None)

    def forget_lowered(self) -> None:
        """The next :meth:`lowered` copies the weights anew: edits through ``weight.data`` leave no trace."""
        self._lower = Lowered(self.model)

    def fingerprint(self) -> str:
        """sha256 over all weights, both towers' function and the preprocessing; about a second per gigabyte."""
        config = self.model.config
        towers = [beside_weights(part, self.reader.tokenizer) for part in (config.vision_config, config.text_config)]
        return digest(self.model.state_dict(), " ".join([self.preprocessing.digest(), *towers]))

    def text_fingerprint(self) -> str:
        """sha256 over what text features depend on: weights and function of the text tower, and the tokenizer."""
        visual = _FAMILIES[self.model.config.model_type][1]
        unused = (*visual, "logit_scale", "logit_bias")
        state = {k: v for k, v in self.model.state_dict().items() if not k.startswith(unused)}
        function = beside_weights(self.model.config.text_config, self.reader.tokenizer)
        return digest(state, f"{self.reader.digest()} {function}")

    def copy(self) -> HuggingFaceEncoder:
        """An independent encoder with the same weights (the tokenizer, which has none, is shared)."""
        return copy.deepcopy(self)

    def save_pretrained(self, folder: str | Path, *, provenance: Mapping[str, object] | None = None) -> Path:
        """Write a folder that transformers, ``AutoProcessor`` and ``zsrobust.encoders.load`` open.

        Args:
            folder: New, empty, or an earlier one written by this method (which is then replaced at once).
            provenance: JSON-able additions to :attr:`provenance`: method, threat, attack, adapted_on, …

        Returns:
            The folder.

        Raises:
            ConfigError: ``folder`` holds something else, or the provenance is not JSON-able.
            ModelError: It cannot be written.
        """
        story = {**self.provenance, **(provenance or {})}
        with quiet():
            return saving.write(
                Path(folder), self.model, self.reader.tokenizer, self.preprocessing, story, vector=golden.golden(self)
            )


def from_folder(
    folder: Path,
    *,
    name: str | None = None,
    provenance: Mapping[str, object] | None = None,
    attention: str = "sdpa",
) -> HuggingFaceEncoder:
    """The encoder in a local ``folder`` in the Hugging Face layout; nothing is fetched.

    A prompted model is opened by :func:`zsrobust.encoders.prompted.from_folder`, which opens others as well.

    Args:
        folder: Holds config.json, weights, preprocessor_config.json and tokenizer files.
        name: What results call it; the folder's name if None.
        provenance: Where it comes from (source, revision), where that is more than a folder.
        attention: ``"sdpa"``, or ``"eager"`` (faster in bfloat16 on CPUs).

    Raises:
        ModelError: Anything in the folder is missing, broken, foreign, or would have to run code; or it holds a
            prompted model, whose backbone without the prompt is another model.
    """
    if saving.holds_prompt(folder):
        raise ModelError(f"{folder.name} holds a prompted model: open it with zsrobust.load")
    encoder = backbone(folder, name=name, provenance=provenance, attention=attention)
    saving.check_golden(encoder, folder)
    return encoder


def backbone(
    folder: Path, *, name: str | None, provenance: Mapping[str, object] | None, attention: str
) -> HuggingFaceEncoder:
    """As :func:`from_folder`, and of a prompted model what is under the prompt."""
    if attention not in ATTENTIONS:
        raise ConfigError(f"attention '{attention}' is not one of {', '.join(ATTENTIONS)}")
    if not folder.is_dir():
        raise ModelError(f"model folder '{folder}' does not exist")
    family = _family(folder)
    with quiet():
        model_class = model_class_of(family)
        config = _config(model_class, folder)
        model = assembled(model_class, config, weights.read(folder), folder.name, attention)
        size = model.config.vision_config.image_size
        input_size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        prepared = images.read(folder, family=family, input_size=input_size)
        reader = prompts.read(folder, family=family, config=model.config.text_config)
    story = saving.story(folder, provenance or {})
    story.pop(saving.PROMPT, None)
    return HuggingFaceEncoder(model, reader, prepared, name=name or folder.resolve().name, provenance=story)


def _family(folder: Path) -> str:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder.name} has no config.json: not a transformers checkpoint")
    config = images.read_json(path)
    family = config.get("model_type")
    if config.get("auto_map"):
        raise ModelError(f"{folder.name} needs its own code (auto_map in config.json), which is never run")
    if family not in _FAMILIES:
        reason = _REFUSED.get(str(family), f"supported: {', '.join(_FAMILIES)}")
        raise ModelError(f"{folder.name} has model_type '{family}': {reason}")
    if config.get("quantization_config"):
        raise ModelError(f"{folder.name} is quantised; an attack needs the float weights")
    wanted = _FAMILIES[family][0]
    listed = config.get("architectures") or [wanted]
    if wanted not in listed:
        raise ModelError(f"{folder.name} is a {', '.join(listed)}, not a {wanted} with both towers")
    return str(family)


def model_class_of(family: str) -> Any:
    """Transformers' class of a family, or why it cannot be imported."""
    try:
        import transformers

        return getattr(transformers, _FAMILIES[family][0])
    except Exception as error:  # whatever a broken torchvision raises: RuntimeError, OSError, ModuleNotFoundError
        chain = _causes(error)
        if "torchvision" in chain:
            raise ModelError(
                "the installed torchvision does not match torch, so transformers cannot be imported: "
                f"uninstall torchvision or install its build for torch {torch.__version__}"
            ) from error
        raise ModelError(f"transformers cannot be imported: {str(error).splitlines()[0]}") from error


def _causes(error: BaseException | None) -> str:
    text = ""
    while error is not None:
        text += f"{error}\n"
        error = error.__cause__ or error.__context__
    return text


def _config(model_class: Any, folder: Path) -> Any:
    try:
        return model_class.config_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a config.json with impossible numbers fails in as many ways as there are numbers
        raise ModelError(_unusable(folder.name, error)) from error


def _unusable(where: str, error: Exception) -> str:
    return f"{where}: config.json cannot be used: {' '.join(str(error).split())[:200]}"


def assembled(model_class: Any, config: Any, state: Mapping[str, Tensor], where: str, attention: str) -> Any:
    """The model with exactly these tensors: no name missing, left over or of another shape.

    Args:
        model_class: ``CLIPModel`` or ``SiglipModel`` of transformers.
        config: Its configuration.
        state: float32 weights by transformers' names.
        where: Whose weights they are, for messages.
        attention: ``"sdpa"`` or ``"eager"``.

    Raises:
        ModelError: They do not fit.
    """
    try:
        model, info = model_class.from_pretrained(
            None, config=config, state_dict=dict(state), dtype=torch.float32, attn_implementation=attention,
            ignore_mismatched_sizes=True, output_loading_info=True, local_files_only=True,
        )  # fmt: skip
    except Exception as error:  # as above
        raise ModelError(_unusable(where, error)) from error
    problems = (
        ("missing", "missing_keys"),
        ("unexpected", "unexpected_keys"),
        ("of another shape", "mismatched_keys"),
    )
    found = [
        f"{len(info[key])} {word} ({first[0] if isinstance(first := min(info[key]), tuple) else first})"
        for word, key in problems
        if info[key]
    ]
    if found or info.get("error_msgs"):
        raise ModelError(f"the weights of {where} do not fit its config.json: {', '.join(found) or 'unreadable'}")
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers without its warnings, load reports and bars, for the length of one load or save."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
