"""Words for scenes: captions that each mention a random part of what is in the picture."""

from dataclasses import dataclass

import numpy as np

from zsrobust.tasks.world.scene import GLYPHS, VOCABULARY, Scene

_OPENINGS = ("", "a picture of ", "an image of ", "a drawing of ", "a render of ", "there is ", "this is ")
_THINGS = ("object", "shape", "thing")
_PLACES = ("in the {}", "at the {}", "in the {} of the picture", "on the {}")
_BACKDROPS = ("on a {} background", "with a {} background", "in front of a {} background")
_NUMERALS = ("one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Caption:
    """A text and the attributes it mentions; it is true of every scene that agrees with its own scene on those."""

    text: str
    mentioned: frozenset[str]


def caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """A random true caption of a scene, which mentions at least one attribute.

    Args:
        scene: What to describe.
        rng: Decides what is mentioned and how.
    """
    mentioned = _chosen(scene, rng)
    noun = {"single": _single, "count": _count, "glyph": _glyph}[scene.stream](scene, mentioned, rng)
    parts = [_pick(_OPENINGS, rng) + noun]
    if "position" in mentioned:
        parts.append(_pick(_PLACES, rng).format(_word(scene, "position")))
    if "background" in mentioned:
        parts.append(_pick(_BACKDROPS, rng).format(_word(scene, "background")))
    return Caption(" ".join(parts) + ("." if rng.random() < 0.7 else ""), frozenset(mentioned))


def with_article(words: str) -> str:
    """``words`` after "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _chosen(scene: Scene, rng: np.random.Generator) -> set[str]:
    present = [name for name in VOCABULARY if getattr(scene, name) >= 0]
    chosen = {name for name in present if rng.random() < 0.5}
    if scene.stream == "glyph":
        chosen.add("glyph")  # "a green sign" would teach little
    return chosen or {present[int(len(present) * rng.random())]}


def _single(scene: Scene, mentioned: set[str], rng: np.random.Generator) -> str:
    noun = _word(scene, "shape") if "shape" in mentioned else _pick(_THINGS, rng)
    adjectives = [_word(scene, name) for name in ("size", "colour", "texture") if name in mentioned]
    return with_article(" ".join([*adjectives, noun]))


def _count(scene: Scene, mentioned: set[str], rng: np.random.Generator) -> str:
    noun = _word(scene, "shape") if "shape" in mentioned else _pick(_THINGS, rng)
    if "count" not in mentioned:
        return f"some {_plural(noun)}" if scene.count else with_article(noun)
    return f"{_NUMERALS[scene.count]} {_plural(noun) if scene.count else noun}"


def _glyph(scene: Scene, mentioned: set[str], rng: np.random.Generator) -> str:
    name = GLYPHS[scene.glyph]
    if "colour" in mentioned:
        return with_article(f"{_word(scene, 'colour')} {name}")
    return f"the {name}"


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("s", "x")) else "s")


def _word(scene: Scene, attribute: str) -> str:
    label: int = getattr(scene, attribute)
    return VOCABULARY[attribute][label]


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(len(options) * rng.random())]
