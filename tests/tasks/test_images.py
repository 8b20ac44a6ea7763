from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from zsrobust.errors import DataError
from zsrobust.tasks import images
from zsrobust.tasks.images import decode, is_image

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(content: bytes) -> np.ndarray:
    image = decode(content, name="x")
    assert image.mode == "RGB"
    return np.asarray(image)


def test_rgb_and_grey_and_one_bit():
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(COLOURS))), COLOURS)
    grey = COLOURS[..., 0]
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(grey))), np.stack([grey] * 3, axis=-1))
    bits = Image.fromarray(grey > 128)
    assert bits.mode == "1"
    np.testing.assert_array_equal(decoded(encoded(bits))[..., 1], np.where(grey > 128, 255, 0))


def test_a_palette_is_looked_up():
    indices = np.arange(54, dtype=np.uint8).reshape(6, 9)
    image = Image.frombytes("P", (9, 6), indices.tobytes())
    image.putpalette(COLOURS.reshape(-1).tolist())
    np.testing.assert_array_equal(decoded(encoded(image)), COLOURS)


def test_alpha_is_composited_on_white():
    alpha = RNG.integers(0, 256, (6, 9, 1), dtype=np.uint8)
    result = decoded(encoded(Image.fromarray(np.concatenate([COLOURS, alpha], axis=-1))))
    share = alpha / 255
    np.testing.assert_allclose(result, COLOURS * share + 255 * (1 - share), atol=1)
    grey = decoded(encoded(Image.merge("LA", [Image.fromarray(COLOURS[..., 0]), Image.fromarray(alpha[..., 0])])))
    np.testing.assert_allclose(grey[..., 2], (COLOURS[..., :1] * share + 255 * (1 - share))[..., 0], atol=1)


def test_transparent_palette_entries_and_colours_become_white():
    palette = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for transparency in (1, b"\xff\x00\xff"):
        content = encoded(palette, transparency=transparency)
        assert decoded(content).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]
    colours = Image.new("RGB", (2, 1), (1, 2, 3))
    colours.putpixel((1, 0), (4, 5, 6))
    assert decoded(encoded(colours, transparency=(4, 5, 6))).tolist() == [[[1, 2, 3], [255, 255, 255]]]


def test_a_transparent_gif_becomes_white_where_it_is_transparent():
    frame = Image.frombytes("P", (2, 1), bytes([0, 1]))
    frame.putpalette([200, 0, 0, 0, 0, 200])
    assert decoded(encoded(frame, "GIF", transparency=1)).tolist() == [[[200, 0, 0], [255, 255, 255]]]


def test_cmyk_also_as_adobe_writes_it():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for content in (encoded(cmyk, "TIFF"), encoded(cmyk, "JPEG", quality=100)):
        np.testing.assert_allclose(decoded(content)[8, 8], (255, 0, 0), atol=3)
    assert b"Adobe" in encoded(cmyk, "JPEG")  # so the inverted storing was tested


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = np.array([[0, 127, 128, 256, 32768, 65535]], dtype=np.uint16)
    content = encoded(Image.fromarray(values), kind)
    assert Image.open(io.BytesIO(content)).mode.startswith("I;16")
    assert decoded(content)[0, :, 0].tolist() == [round(int(v) * 255 / 65535) for v in values[0]]


def test_a_transparent_16_bit_grey_is_white():
    values = np.array([[700, 65535, 0]], dtype=">u2")
    assert decoded(_grey16_png(values, transparent=700))[0, :, 0].tolist() == [255, 255, 0]


def _grey16_png(values: np.ndarray, *, transparent: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"tRNS", struct.pack(">H", transparent))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_32_bit_integers_within_16_bits_are_scaled_and_others_refused():
    values = np.array([[0, 257, 65535]], dtype=np.int32)
    assert decoded(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 1, 255]
    with pytest.raises(DataError, match=r"x: cannot be read as an image \(32-bit values 0..70000"):
        decode(encoded(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "TIFF"), name="x")


def test_a_16_bit_pgm_is_scaled():
    content = b"P5 3 1 65535\n" + np.array([0, 32768, 65535], dtype=">u2").tobytes()
    assert decoded(content)[0, :, 0].tolist() == [0, 128, 255]


def test_floats_are_0_to_1_or_0_to_255():
    def tiff(*values: float) -> bytes:
        return encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")

    assert decoded(tiff(0, 0.5, 1))[0, :, 0].tolist() == [0, 128, 255]
    assert decoded(tiff(0, 99.6, 255))[0, :, 0].tolist() == [0, 100, 255]
    for bad in (tiff(0, 300), tiff(-1, 0), tiff(0, float("nan"))):
        with pytest.raises(DataError, match="float values outside"):
            decode(bad, name="x")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    turned = {
        1: COLOURS, 2: COLOURS[:, ::-1], 3: COLOURS[::-1, ::-1], 4: COLOURS[::-1],
        5: COLOURS.transpose(1, 0, 2), 6: np.rot90(COLOURS, -1), 7: np.rot90(COLOURS, 2).transpose(1, 0, 2),
        8: np.rot90(COLOURS),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(COLOURS), exif=exif)), turned[orientation])


def test_broken_exif_leaves_the_pixels_alone():
    content = encoded(Image.fromarray(COLOURS), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff")
    plain = encoded(Image.fromarray(COLOURS), "JPEG", quality=95)
    np.testing.assert_array_equal(decoded(content), decoded(plain))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert (decoded(content) == [255, 0, 0]).all()


def test_other_colour_spaces():
    ycbcr = Image.fromarray(COLOURS).convert("YCbCr")
    np.testing.assert_array_equal(decoded(encoded(ycbcr, "TIFF"))[..., 1], np.asarray(ycbcr.convert("RGB"))[..., 1])
    lab = ImageCms.applyTransform(
        Image.fromarray(COLOURS),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert np.abs(decoded(encoded(lab, "TIFF")).astype(int) - COLOURS).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_truncated_image_is_an_error_with_its_name(kind, tmp_path):
    big = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = encoded(big, kind)
    file = tmp_path / "cut.img"
    for keep in (len(content) // 2, len(content) * 9 // 10, 5, 0):
        file.write_bytes(content[:keep])
        with pytest.raises(DataError, match=r"cut\.img: cannot be read as an image \(.+\)$"):
            decode(file)


def test_a_missing_file_and_a_heic_are_told(tmp_path):
    with pytest.raises(DataError, match=r"no\.png: cannot be read as an image \(No such file"):
        decode(tmp_path / "no.png")
    file = tmp_path / "IMG_1.HEIC"
    file.write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    with pytest.raises(DataError, match="HEIC is not supported: convert it"):
        decode(file)


@pytest.mark.parametrize("limit", [60, 30])
def test_a_decompression_bomb_is_refused(monkeypatch, limit):
    content = encoded(
        Image.fromarray(COLOURS.repeat(2, axis=0))
    )  # 108 pixels: a warning beyond 60, an error beyond 2x30
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=f"more than {limit} pixels, refused as a decompression bomb"):
        decode(content, name="x")


def test_random_damage_raises_nothing_else():
    content = encoded(Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
    errors = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(200):
            broken = bytearray(content)
            for position in RNG.integers(0, len(broken), 4):
                broken[position] = RNG.integers(0, 256)
            try:
                assert decode(bytes(broken), name="x").mode == "RGB"
            except DataError:
                errors += 1
    assert errors > 50


@pytest.mark.parametrize("name", ["a.jpg", "b.JPEG", "c.Webp", "d.heic", "e.f.png"])
def test_images_by_name(name):
    assert is_image(name)


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "a.jpg:Zone.Identifier", "._a.jpg", "readme.txt", "png"])
def test_other_files_by_name(name):
    assert not is_image(name)


def test_other_threads_leave_the_filters_of_warnings_alone(monkeypatch):
    """They belong to the process: two threads that change and restore them leave them in each other's state."""
    content, seen = encoded(Image.fromarray(COLOURS)), []
    monkeypatch.setattr(images, "_upright", lambda image: seen.append(warnings.filters) or image)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(decode, content).result()
    decode(content)
    assert seen[0] is warnings.filters
    assert seen[1] is not warnings.filters
