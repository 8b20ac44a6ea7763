from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from zsrobust.errors import ConfigError, DataError
from zsrobust.geometry import Geometry, centre_crop

SIZES = [
    (37, 53), (333, 500), (500, 333), (224, 225), (225, 224), (1023, 3), (3, 1023), (2, 2),
    (224, 224), (223, 401), (640, 481), (7, 299), (257, 255),
]  # fmt: skip


def picture(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng([height, width])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def reference(processor, image: Image.Image) -> np.ndarray:
    pixels = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    assert pixels.dtype == np.uint8
    return np.moveaxis(pixels, 0, -1)


@pytest.fixture(scope="module")
def processors():
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return CLIPImageProcessorPil, SiglipImageProcessorPil


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(224, (224, 224)), (256, (224, 224)), (64, (97, 50)), (99, (98, 224))])
def test_equals_the_clip_processor(processors, height, width, resize, crop):
    image = picture(height, width)
    processor = processors[0](size={"shortest_edge": resize}, crop_size={"height": crop[0], "width": crop[1]})
    np.testing.assert_array_equal(Geometry(resize, crop)(image), reference(processor, image))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equals_the_siglip_processor(processors, height, width):
    image = picture(height, width)
    processor = processors[1](size={"height": 96, "width": 80})
    np.testing.assert_array_equal(Geometry(resize=(96, 80))(image), reference(processor, image))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_crop_alone_pads_as_the_clip_processor_does(processors, height, width):
    image = picture(height, width)
    processor = processors[0](do_resize=False, crop_size={"height": 101, "width": 300})
    np.testing.assert_array_equal(centre_crop(np.asarray(image), (101, 300)), reference(processor, image))


def test_a_sliver_is_refused_rather_than_blown_up():
    with pytest.raises(DataError, match="is 1x5000: its resize would be 256x1280000, too large"):
        Geometry(256, 224)(Image.new("RGB", (5000, 1)))


def test_the_interpolation_is_used():
    image = picture(37, 53)
    results = [
        Geometry(64, 64, name)(image)
        for name in ("nearest", "bilinear", "bicubic", "lanczos")  # type: ignore[arg-type]
    ]
    assert all((a != b).any() for i, a in enumerate(results) for b in results[:i])


def test_as_is_returns_a_fresh_writable_array():
    image = picture(5, 6)
    result = Geometry()(image)
    np.testing.assert_array_equal(result, np.asarray(image))
    result[:] = 0
    assert np.asarray(image).any()


def test_a_native_size_is_held():
    geometry = Geometry(size=(5, 6))
    assert geometry(picture(5, 6)).shape == (5, 6, 3)
    with pytest.raises(DataError, match=r"is 6x5, but every image must be 5x6; .*resize and crop"):
        geometry(picture(6, 5))


@pytest.mark.parametrize(
    ("geometry", "text", "size"),
    [
        (Geometry(), "as is", None),
        (Geometry(size=(32, 32)), "32x32 as is", (32, 32)),
        (Geometry(256, 224), "256/224 bicubic", (224, 224)),
        (Geometry(224), "224 bicubic", None),
        (Geometry((224, 200), interpolation="bilinear"), "exactly 224x200 bilinear", (224, 200)),
        (Geometry(crop=(3, 4)), "crop 3x4", (3, 4)),
    ],
)
def test_description_and_output_size(geometry, text, size):
    assert geometry.describe() == text
    assert geometry.output_size == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": 0}, "geometry resize = 0 is neither"),
        ({"crop": True}, "geometry crop = True"),
        ({"resize": (1, 2, 3)}, "resize = "),
        ({"interpolation": "bicubik"}, "unknown interpolation 'bicubik'; did you mean 'bicubic'"),
        ({"size": (3, 3), "crop": 2}, "leave out resize and crop"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Geometry(**arguments)
