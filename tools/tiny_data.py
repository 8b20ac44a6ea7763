"""What the tiny CLIP sees: photographs, renders of the micro-world, and words for both.

A batch is a pure function of (seed, step), which makes training resumable without storing any random state.
"""

import io
import tomllib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from zsrobust.tasks.world.captions import Caption, caption
from zsrobust.tasks.world.drawing import SIZE
from zsrobust.tasks.world.glyphs import parse_strokes
from zsrobust.tasks.world.render import draw_glyph, render
from zsrobust.tasks.world.scene import ABSENT, GLYPHS, VOCABULARY, Scene, sample_scene

ATTRIBUTES = (*VOCABULARY, "photo")
"""The columns of an image's label row: the world's attributes and the class of a photograph."""

PHOTO_TEMPLATES = (
    "This is a photo of a {}",  # the TeCoA paper's, which tasks of photographs use
    "a photo of a {}.",
    "a photo of the {}.",
    "a blurry photo of a {}.",
    "a low resolution photo of a {}.",
    "a bad photo of a {}.",
    "a good photo of a {}.",
    "a photo of a small {}.",
    "a photo of a big {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a {}.",
    "{}",
)
PHOTO_SYNONYMS = {
    "airplane": ("plane", "aeroplane"),
    "automobile": ("car",),
    "ship": ("boat",),
    "dog": ("puppy",),
}
SCAN_TEMPLATES = (
    "a scan of the handwritten {}.",
    "a picture of the handwritten {}.",
    "a picture of the {}.",
    "an image of the {}.",
    "the {}.",
    "{}",
)

# A person's digits differ from the print font's: no slash in the 0, a bare 1, open and closed 4s, a 7 without a bar.
_HANDWRITING = {
    0: ("20 11 02 04 15 26 35 44 42 31 20", "10 30 41 45 36 16 05 01 10"),
    1: ("20 26", "30 16", "11 20 26", "11 20 26,16 36"),
    2: ("01 10 30 41 42 33 24 15 06 46", "01 10 30 41 33 15 06 26 46"),
    3: ("01 10 30 41 42 33 23,33 44 45 36 16 05", "00 30 41 32 23,23 34 45 36 06"),
    4: ("36 30 04 44", "00 03 43,40 46", "10 03 43,31 36", "20 04 44,32 26"),
    5: ("40 00 02 32 43 45 36 06", "40 10 02 22 43 44 35 16 05"),
    6: ("30 12 04 05 16 36 45 44 33 13 04", "20 03 05 16 36 45 34 14 05"),
    7: ("00 40 16", "00 40 26", "00 40 16,13 33", "00 40 23 26,03 43"),
    8: (
        "13 02 01 10 30 41 42 33 13 04 05 16 36 45 44 33",
        "20 11 33 35 26 15 13 31 20",
        "40 10 01 12 34 45 26 05 14 32 40",
    ),
    9: ("42 33 13 02 01 10 30 41 42 34 16", "41 20 11 12 23 32 41 36", "40 10 02 13 33 40 36"),
}
_RENDER_SEED = 9_000  # far from the seeds of the tasks' splits: no render is shared


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Photographs and their classes.

    Attributes:
        images: (N, 32, 32, 3) uint8.
        labels: (N,) class numbers.
        class_names: Names, in label order.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Renders:
    """Renders with the scenes they show; ``scenes[i]`` is None and the glyph label tells all for an imitated scan.

    Attributes:
        images: (N, 64, 64, 3) uint8.
        labels: (N, A) label rows in the order of ``ATTRIBUTES``.
        scenes: N scenes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    scenes: list[Scene | None]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One training batch.

    Attributes:
        pixels: (B, 3, 64, 64) float32 in [0, 1].
        labels: (B, A) attribute labels; ``ABSENT`` where an image lacks the attribute.
        texts: C captions, of the last C images; the first ones, photographs, go without.
        mentions: (C, A) the labels that each caption mentions; ``ABSENT`` elsewhere.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    texts: list[str]
    mentions: torch.Tensor


# ------------------------------------------------------------------------------------------------------- photographs


def read_photos(source: str, split: str = "train", size: int = 32) -> Photos:
    """Photographs from a parquet file, a folder with one folder a class, or a hub id, resized to ``size``."""
    from datasets import ClassLabel, load_dataset

    path = Path(source)
    if path.is_file():
        data = load_dataset("parquet", data_files=source, split="train")
    elif path.is_dir():
        data = load_dataset("imagefolder", data_dir=source, split="train")
    else:
        data = load_dataset(source, split=split)
    image_column = next(name for name in ("image", "img", "webp", "jpg") if name in data.column_names)
    label_column = next(name for name in ("label", "cls") if name in data.column_names)
    labels = data.features[label_column]
    if not isinstance(labels, ClassLabel):
        raise ValueError(f"column {label_column!r} of {source} names no classes")
    images = np.stack([_photo(image, size) for image in data[image_column]])
    return Photos(images=images, labels=np.array(data[label_column]), class_names=tuple(labels.names))


def _photo(image: Image.Image | dict[str, bytes], size: int) -> NDArray[np.uint8]:
    opened = Image.open(io.BytesIO(image["bytes"])) if isinstance(image, dict) else image
    return np.asarray(opened.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


# ------------------------------------------------------------------------------------------------------------ renders


def make_renders(counts: dict[str, int], seed: int, workers: int) -> Renders:
    """Render ``counts[stream]`` pictures of each stream; the stream "scan" imitates 8x8 scans of handwritten digits."""
    jobs = [(stream, _RENDER_SEED + seed, index) for stream, count in counts.items() for index in range(count)]
    with ProcessPoolExecutor(workers) as pool:
        made = list(pool.map(_make_render, jobs, chunksize=500))
    images = np.stack([image for image, _, _ in made])
    labels = np.array([row for _, row, _ in made], dtype=np.int64)
    return Renders(images=images, labels=labels, scenes=[scene for _, _, scene in made])


def _make_render(job: tuple[str, int, int]) -> tuple[NDArray[np.uint8], list[int], Scene | None]:
    stream, seed, index = job
    if stream == "scan":
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
        row = [ABSENT] * len(ATTRIBUTES)
        row[ATTRIBUTES.index("glyph")] = index % 10
        return imitate_scan(index % 10, rng), row, None
    scene = sample_scene(stream, seed, index)
    return render(scene), [*(getattr(scene, name) for name in VOCABULARY), ABSENT], scene


def imitate_scan(digit: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A (64, 64, 3) uint8 picture like a scanned digit: white on black, thick, reduced to 8x8 and enlarged again."""
    forms = _HANDWRITING[digit]
    strokes = parse_strokes(forms[int(rng.integers(len(forms)))]).copy()
    # The same point gets the same displacement, so that strokes stay joined.
    points, where = np.unique(strokes.reshape(-1, 2), axis=0, return_inverse=True)
    points = points + rng.normal(0, 0.03, points.shape).astype(np.float32)
    strokes = points[where.reshape(-1)].reshape(strokes.shape)
    canvas = np.zeros((SIZE, SIZE, 3), dtype=np.float32)
    height = rng.uniform(52, 64)
    draw_glyph(
        canvas,
        strokes,
        x=SIZE / 2 + rng.uniform(-5, 5),
        y=SIZE / 2 + rng.uniform(-3, 3),
        height=height,
        aspect=rng.uniform(0.65, 1.25),
        shear=rng.uniform(-0.15, 0.45),
        angle=rng.uniform(-0.15, 0.15),
        thickness=height * rng.uniform(0.1, 0.22),
        paint=(1.0, 1.0, 1.0),
    )
    small = canvas[..., 0].reshape(8, 8, 8, 8).mean(axis=(1, 3)) * rng.uniform(0.85, 1.3)
    small = np.round(np.clip(small + rng.normal(0, 0.03, small.shape), 0, 1) * 16) / 16
    large = enlarge(torch.from_numpy(small.astype(np.float32))[None, None])[0, 0].numpy()
    return np.repeat((large * 255 + 0.5).astype(np.uint8)[..., None], 3, axis=2)


def enlarge(pixels: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) in [0, 1] -> (B, C, 64, 64), as the encoder resizes at run time."""
    if pixels.shape[-1] == SIZE:
        return pixels
    resized = torch.nn.functional.interpolate(pixels, (SIZE, SIZE), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)


# ------------------------------------------------------------------------------------------------------------- batches


class Mixture:
    """Photographs and renders, mixed into batches."""

    def __init__(self, photos: Photos, renders: Renders, *, seed: int, photo_share: float, batch: int) -> None:
        self.photos, self.renders, self.seed = photos, renders, seed
        self.photo_count = round(batch * photo_share)
        self.render_count = batch - self.photo_count
        margin = 3
        padded = np.pad(photos.images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
        self._padded = torch.from_numpy(padded).permute(0, 3, 1, 2).contiguous()

    def batch(self, step: int) -> Batch:
        """The batch of this training step."""
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, step], dtype=np.uint64)))
        photos = self._take("photo", len(self.photos.labels), self.photo_count, step)
        renders = self._take("render", len(self.renders.scenes), self.render_count, step)
        labels = np.full((len(photos) + len(renders), len(ATTRIBUTES)), ABSENT, dtype=np.int64)
        labels[: len(photos), -1] = self.photos.labels[photos]
        labels[len(photos) :] = self.renders.labels[renders]
        # A third of the photographs get a caption: all of them have a class prompt, and words cost time.
        captioned = photos[len(photos) * 2 // 3 :]
        captions = [photo_caption(self.photos.class_names[self.photos.labels[i]], rng) for i in captioned]
        captions += [self._render_caption(i, rng) for i in renders]
        mentioned = np.array([[name in c.mentioned for name in ATTRIBUTES] for c in captions])
        pixels = torch.cat([self._photo_pixels(photos, rng), self._render_pixels(renders, rng)])
        return Batch(
            pixels=pixels,
            labels=torch.from_numpy(labels),
            texts=[c.text for c in captions],
            mentions=torch.from_numpy(np.where(mentioned, labels[-len(captions) :], ABSENT)),
        )

    def _take(self, what: str, population: int, count: int, step: int) -> NDArray[np.int64]:
        """The numbers of this step, from a shuffle that is fresh in each pass."""
        turns, places = np.divmod(np.arange(step * count, (step + 1) * count), population)
        first = (1 if what == "photo" else 2) << 40
        taken = [_shuffle(self.seed, first + int(t), population)[places[turns == t]] for t in np.unique(turns)]
        return np.concatenate(taken)

    def _render_caption(self, index: int, rng: np.random.Generator) -> Caption:
        scene = self.renders.scenes[index]
        if scene is not None:
            return caption(scene, rng)
        name = GLYPHS[self.renders.labels[index, ATTRIBUTES.index("glyph")]]
        return Caption(SCAN_TEMPLATES[int(rng.integers(len(SCAN_TEMPLATES)))].format(name), frozenset({"glyph"}))

    def _photo_pixels(self, indices: NDArray[np.int64], rng: np.random.Generator) -> torch.Tensor:
        """Random crops (one size a quarter of the batch, for speed), flips, light and contrast."""
        quarters = []
        for quarter in np.array_split(indices, 4):
            side = int(rng.integers(22, 35))
            low = self._padded.shape[-1] - side + 1
            tops, lefts = rng.integers(0, low, len(quarter)), rng.integers(0, low, len(quarter))
            crops = [
                self._padded[i, :, y : y + side, x : x + side] for i, y, x in zip(quarter, tops, lefts, strict=True)
            ]
            pixels = torch.stack(crops).float() / 255
            flips = torch.from_numpy(rng.random(len(quarter)) < 0.5)
            pixels[flips] = pixels[flips].flip(-1)
            quarters.append(enlarge(pixels))
        pixels = torch.cat(quarters)
        light = torch.from_numpy(rng.uniform(0.8, 1.2, (len(indices), 3, 1, 1)).astype(np.float32))
        contrast = torch.from_numpy(rng.uniform(0.75, 1.25, (len(indices), 1, 1, 1)).astype(np.float32))
        light = 0.6 * light.mean(dim=1, keepdim=True) + 0.4 * light
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        return (((pixels - mean) * contrast + mean) * light).clamp(0, 1)

    def _render_pixels(self, indices: NDArray[np.int64], rng: np.random.Generator) -> torch.Tensor:
        """Renders moved by up to two pixels: many more pictures from the same drawing."""
        images = torch.from_numpy(self.renders.images[indices]).permute(0, 3, 1, 2)
        padded = torch.nn.functional.pad(images.float() / 255, (2, 2, 2, 2), mode="replicate")
        dy, dx = rng.integers(0, 5, len(indices)), rng.integers(0, 5, len(indices))
        return torch.stack([p[:, y : y + SIZE, x : x + SIZE] for p, y, x in zip(padded, dy, dx, strict=True)])


@lru_cache(maxsize=4)
def _shuffle(key: int, turn: int, population: int) -> NDArray[np.int64]:
    """A permutation that depends on its arguments only."""
    rng = np.random.Generator(np.random.Philox(key=np.array([key, turn], dtype=np.uint64)))
    return rng.permutation(population)


def photo_caption(class_name: str, rng: np.random.Generator) -> Caption:
    """A random caption of a photograph."""
    names = (class_name, class_name, *PHOTO_SYNONYMS.get(class_name, ()))
    template = PHOTO_TEMPLATES[int(rng.integers(len(PHOTO_TEMPLATES)))]
    return Caption(template.format(names[int(rng.integers(len(names)))]), frozenset({"photo"}))


# --------------------------------------------------------------------------------------------------------------- words


def task_templates(tasks: Path) -> dict[str, tuple[str, ...]]:
    """View name -> templates of every world task, read from its TOML in this folder."""
    found = {}
    for path in sorted(tasks.glob("world-*.toml")):
        task = tomllib.loads(path.read_text())
        found[task["source"]["view"]] = tuple(task["templates"])
    return found
