"""The tiny CLIP inside the wheel, for demonstrations and tests without a network."""

from __future__ import annotations

from zsrobust.encoders.huggingface import HuggingFaceEncoder, from_folder


def load() -> HuggingFaceEncoder:
    """The embedded checkpoint as an encoder called ``tiny``."""
    from zsrobust.encoders.embedded import tiny_folder

    return from_folder(tiny_folder(), name="tiny", provenance={"source": "tiny"})
