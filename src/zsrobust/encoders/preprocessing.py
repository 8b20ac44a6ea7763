"""A checkpoint's own image preprocessing, read from its JSON and never guessed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zsrobust.errors import ModelError
from zsrobust.geometry import Geometry, Interpolation

# PIL's numbers, which is what preprocessor_config.json stores.
_INTERPOLATIONS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Preprocessing:
    """Mean, std, size and geometry of a checkpoint.

    Attributes:
        mean: Per channel, in units of pixels in [0, 1].
        std: Per channel, same units.
        input_size: ``(H, W)`` of the visual tower.
        geometry: The PIL resize and crop that the checkpoint's own processor does.
        source: The JSON as it was read, written back unchanged when the encoder is saved.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int]
    geometry: Geometry
    source: Mapping[str, Any]

    @property
    def torch_mode(self) -> Literal["bilinear", "bicubic"]:
        """The mode of the differentiable resize: the checkpoint's own if bilinear, else bicubic."""
        return "bilinear" if self.geometry.interpolation == "bilinear" else "bicubic"

    def digest(self) -> str:
        """sha256 of the numbers that change features."""
        parts = [self.mean, self.std, self.input_size, self.geometry.describe(), self.torch_mode]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read(folder: Path, *, family: str, input_size: tuple[int, int]) -> Preprocessing:
    """Read the preprocessing that belongs to the checkpoint in ``folder``.

    Args:
        folder: Holds ``preprocessor_config.json``, or ``processor_config.json`` as transformers 5 writes it.
        family: ``"clip"`` (crops by default) or ``"siglip"`` (does not).
        input_size: ``(H, W)`` of the tower, from ``config.json``; the preprocessing has to end there.

    Raises:
        ModelError: No such file, a number missing, or a preprocessing that this package does not reproduce.
    """
    source, name = _find(folder)
    where = f"{name} of {folder.name}"
    geometry = _geometry(source, family=family, where=where)
    end = geometry.output_size
    if end != input_size:
        shown = "a size that depends on the image" if end is None else f"{end[0]}x{end[1]}"
        raise ModelError(f"{where} ends at {shown}, but the tower takes {input_size[0]}x{input_size[1]} pixels")
    mean, std = _mean_std(source, where)
    return Preprocessing(mean, std, input_size, geometry, source)


def _find(folder: Path) -> tuple[dict[str, Any], str]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        found = read_json(path)
        if name == "processor_config.json":
            found = found.get("image_processor") or {}
        if found:
            return found, name
    raise ModelError(f"{folder.name} has no preprocessor_config.json: its mean, std and size are not guessed")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; ModelError in one line when it is broken or no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.parent.name}/{path.name} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.parent.name}/{path.name} should hold a JSON object, not {type(found).__name__}")
    return found


def _geometry(source: Mapping[str, Any], *, family: str, where: str) -> Geometry:
    if not source.get("do_resize", True):
        raise ModelError(f"{where} says do_resize: false; a preprocessing without a resize is not supported")
    code = source.get("resample", 3)  # both families' processors define bicubic as their default
    if code not in list(_INTERPOLATIONS):  # a list, because what cannot be hashed is compared too
        raise ModelError(f"{where} has resample {code!r}, allowed: {_INTERPOLATIONS}")
    crop: tuple[int, int] | None = None
    if source.get("do_center_crop", family == "clip"):
        crop = _height_width(source.get("crop_size"), "crop_size", where)
    return Geometry(resize=_resize(source.get("size"), where), crop=crop, interpolation=_INTERPOLATIONS[code])


def _resize(size: object, where: str) -> int | tuple[int, int]:
    """An int or ``{"shortest_edge"}`` is the shorter side, ``{"height", "width"}`` is exact."""
    if isinstance(size, int) and not isinstance(size, bool):
        return size
    if isinstance(size, Mapping):
        if set(size) == {"shortest_edge"} and isinstance(size["shortest_edge"], int):
            return size["shortest_edge"]
        if set(size) == {"height", "width"}:
            return _height_width(size, "size", where)
    raise ModelError(f"{where} has size {size!r}; allowed: an integer, shortest_edge, or height and width")


def _height_width(size: object, key: str, where: str) -> tuple[int, int]:
    if isinstance(size, int) and not isinstance(size, bool):
        return size, size
    if isinstance(size, Mapping):
        height, width = size.get("height"), size.get("width")
        if isinstance(height, int) and isinstance(width, int):
            return height, width
    raise ModelError(f"{where} has {key} {size!r}; allowed: an integer, or height and width")


def _mean_std(source: Mapping[str, Any], where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rescale = source.get("rescale_factor", 1 / 255)
    by_255 = isinstance(rescale, float) and math.isclose(rescale, 1 / 255, rel_tol=1e-6)
    if not source.get("do_rescale", True) or not by_255:
        raise ModelError(f"{where} does not scale pixels by 1/255 (rescale_factor {rescale!r}), which is not supported")
    if not source.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    found: list[tuple[float, ...]] = []
    for key in ("image_mean", "image_std"):
        try:
            value = tuple(float(number) for number in source[key])
        except (KeyError, TypeError, ValueError):
            value = ()
        if len(value) != 3 or not all(map(math.isfinite, value)) or (key == "image_std" and min(value) <= 0):
            raise ModelError(f"{where} has no usable {key} (found {source.get(key)!r}); it is not guessed")
        found.append(value)
    return found[0], found[1]
