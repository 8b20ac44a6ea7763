"""The tiny CLIP inside the wheel, for demonstrations and tests without a network."""

from __future__ import annotations

from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder


def load() -> HuggingFaceEncoder:
    """A small CLIP inside the package (64×64 pixels), pre-trained on the rendered world and on photographs."""
    from zsrobust.encoders.embedded import tiny_folder

    return from_folder(tiny_folder(), name="tiny", provenance={"source": "tiny"})
