"""Encoded image → RGB, one documented rule for each mode.

    RGB, L, 1, P, YCbCr, LAB    Pillow's conversion
    any transparency            composited on white (RGBA, LA, PA, and palettes or colours marked transparent)
    CMYK                        Pillow's conversion, which knows Adobe's inverted JPEGs
    16-bit grey, mode I         0..65535 scaled to 0..255 and rounded, not clipped; others are refused
    16-bit RGB                  Pillow's decoder keeps the high byte
    float (mode F)              0..1 scaled to 0..255, or 0..255 rounded; anything else is refused
    EXIF orientation            applied; broken EXIF is ignored, the pixels are not in doubt
    animations                  the first frame
    colour profiles             ignored, as the reference processors do

What cannot be decoded in full (truncated, corrupt, of a format Pillow does not read, a decompression bomb)
is an ``UnreadableImage`` with the image's name. Nothing is ever decoded halfway.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zsrobust.errors import UnreadableImage

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".avif", ".jp2", ".heic", ".heif"),
    )
)
"""What counts as an image in a folder, in any case. HEIC is here to be refused by name, not passed over."""

ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""


def is_image(name: str) -> bool:
    """True when a file's name says it is an image: a known suffix, and not hidden (``._cat.jpg``)."""
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def decode(source: bytes | Path, *, name: str | None = None) -> PILImage:
    """Decode one image to RGB by the rules above.

    Args:
        source: The encoded bytes, or a file.
        name: What messages call the image; a file's path by default.

    Returns:
        A loaded PIL image in mode RGB that holds no open file.

    Raises:
        UnreadableImage: it cannot be decoded in full; the message begins with ``name``.
    """
    from PIL import Image

    called = name or (str(source) if isinstance(source, Path) else "image")
    try:
        content = source.read_bytes() if isinstance(source, Path) else source
        with _quiet(), Image.open(io.BytesIO(content)) as image:
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return _to_rgb(_upright(image))
    except Exception as problem:  # decoders raise nearly anything on broken bytes
        raise UnreadableImage(f"{called}: cannot be read as an image ({_reason(problem, called)})") from problem


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings about doubtful metadata: the pixels are decoded in full or not at all.

    Filters of warnings belong to the whole process, so other threads than the main one leave them as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(problem: Exception, name: str) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(problem, UnidentifiedImageError):
        if Path(name).suffix.lower() in {".heic", ".heif"}:
            return "HEIC is not supported: convert it to JPEG or PNG"
        return "not a known image format, or its beginning is damaged"
    if isinstance(problem, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, refused as a decompression bomb"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return str(problem).split("\n")[0] or type(problem).__name__


def _upright(image: PILImage) -> PILImage:
    from PIL import ImageOps

    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # broken EXIF says nothing about the rotation
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _to_rgb(image: PILImage) -> PILImage:
    if image.mode.startswith("I;16") or image.mode == "I":
        image = _grey(_from_16_bit(np.asarray(image), image.info.get("transparency")))
    elif image.mode == "F":
        image = _grey(_from_float(np.asarray(image)))
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: PILImage) -> PILImage:
    from PIL import Image

    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")


def _grey(values: np.ndarray) -> PILImage:
    from PIL import Image

    return Image.fromarray(values.astype(np.uint8))


def _from_16_bit(values: np.ndarray, transparent: object) -> np.ndarray:
    """0..65535 → 0..255, white where a PNG marks a grey value as transparent."""
    values = values.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"32-bit values {values.min()}..{values.max()}; known are 0..65535")
    scaled = (values * 255 + 32767) // 65535
    return np.where(values == transparent, 255, scaled) if isinstance(transparent, int) else scaled


def _from_float(values: np.ndarray) -> np.ndarray:
    """0..1 or 0..255 → 0..255, whole."""
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise ValueError("float values outside 0..1 and 0..255")
    return np.asarray(np.rint(values * 255 if values.max() <= 1 else values))
