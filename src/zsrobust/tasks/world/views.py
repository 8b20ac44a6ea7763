"""Tasks over the micro-world: each view reads one label from a stream of renders.

Several views show the same renders (the shape and the colour of one picture, say); ``image_id`` says so, because
examples that share an image are not independent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from zsrobust.tasks.world import scene as world
from zsrobust.tasks.world.render import render

Labels = NDArray[np.int64]
Attributes = Mapping[str, Labels]

SPLIT_SEEDS: Mapping[str, int] = MappingProxyType({"train": 101, "validation": 102, "test": 103})
"""A seed of its own for each split, so that no render is in two of them."""

SPLIT_SIZES: Mapping[str, int] = MappingProxyType({"train": 20_000, "validation": 2_000, "test": 2_000})
"""Number of images of every view."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One labelled task over a stream of renders.

    Attributes:
        name: The view's name.
        stream: The stream its pictures come from.
        class_names: Class names, in label order.
        read: Attributes of N scenes -> (N,) labels, negative where a scene is not part of this view.
        share: The least share of the stream that belongs to this view, within any few thousand scenes.
    """

    name: str
    stream: str
    class_names: tuple[str, ...]
    read: Callable[[Attributes], Labels]
    share: float = 1.0

    def length(self, split: str) -> int:
        """Number of images in a split."""
        return SPLIT_SIZES[_checked(split)]

    def labels(self, split: str) -> Labels:
        """(N,) labels of a split, read off the scenes without drawing them."""
        return _members(self.name, _checked(split))[1].copy()

    def label(self, split: str, index: int) -> int:
        """The label of one image."""
        return int(_members(self.name, _checked(split))[1][index])

    def scene(self, split: str, index: int) -> world.Scene:
        """The scene behind one image."""
        return world.sample_scene(self.stream, SPLIT_SEEDS[split], self._number(split, index))

    def image(self, split: str, index: int) -> NDArray[np.uint8]:
        """One image, (64, 64, 3) uint8 RGB."""
        return render(self.scene(split, index))

    def image_id(self, split: str, index: int) -> str:
        """A name for the render; equal for views that show the same one."""
        return f"world/{self.stream}/{split}/{self._number(split, index)}"

    def _number(self, split: str, index: int) -> int:
        return int(_members(self.name, _checked(split))[0][index])


def _checked(split: str) -> str:
    if split not in SPLIT_SEEDS:
        raise ValueError(f"the world has no split {split!r}; it has {', '.join(SPLIT_SEEDS)}")
    return split


@lru_cache(maxsize=64)
def _members(name: str, split: str) -> tuple[Labels, Labels]:
    """((N,) scene numbers, (N,) labels) of the first N scenes of the stream that belong to the view."""
    view, size = VIEWS[name], SPLIT_SIZES[split]
    numbers = np.arange(int(size / view.share) + len(world.COMPOSITIONS), dtype=np.int64)
    labels = view.read(world.attributes(view.stream, SPLIT_SEEDS[split], numbers))
    numbers, labels = numbers[labels >= 0][:size], labels[labels >= 0][:size]
    for array in (numbers, labels):
        array.flags.writeable = False  # cached: a caller must not change them
    return numbers, labels


def composition_names(*, unseen: bool) -> tuple[str, ...]:
    """Names such as "red striped circle" of the compositions that adaptation sees, or of those it does not."""
    return tuple(_composition_name(number) for number in _composition_numbers(unseen=unseen))


def _composition_name(number: int) -> str:
    shape, colour, texture = world.COMPOSITIONS[number]
    return f"{world.COLOURS[colour]} {world.TEXTURES[texture]} {world.SHAPES[shape]}"


def _composition_numbers(*, unseen: bool) -> Labels:
    shape, colour, texture = np.array(world.COMPOSITIONS, dtype=np.int64).T
    return np.flatnonzero(world.held_out(shape, colour, texture) == unseen)


def _composition_view(name: str, *, unseen: bool, share: float) -> View:
    numbers = _composition_numbers(unseen=unseen)
    label_of = np.full(len(world.COMPOSITIONS), world.ABSENT, dtype=np.int64)
    label_of[numbers] = np.arange(len(numbers))

    def read(found: Attributes) -> Labels:
        return label_of[world.composition_number(found["shape"], found["colour"], found["texture"])]

    return View(name=name, stream="single", class_names=composition_names(unseen=unseen), read=read, share=share)


def _attribute_view(attribute: str, stream: str) -> View:
    def read(found: Attributes) -> Labels:
        return found[attribute]

    return View(name=attribute, stream=stream, class_names=world.VOCABULARY[attribute], read=read)


def _all_views() -> dict[str, View]:
    views = [
        _composition_view("compositions", unseen=False, share=0.8),
        _composition_view("unseen", unseen=True, share=0.2),
        *(_attribute_view(name, "single") for names in world.STREAMS["single"] for name in names),
        _attribute_view("count", "count"),
        _attribute_view("glyph", "glyph"),
    ]
    return {view.name: view for view in views}


VIEWS: Mapping[str, View] = MappingProxyType(_all_views())
"""View name -> view."""
