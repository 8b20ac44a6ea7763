"""The visual tower as an ONNX graph with its preprocessing inside, and text heads as matrices.

The graph takes pixels in [0, 1] of the model's input size and gives unit image features; everything of
:meth:`Encoder.encode_pixels` is in it, pixel and token prompts too. What was written is run in onnxruntime and compared
with torch before it is called done.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from zsrobust.encoders import Encoder
from zsrobust.errors import ConfigError, ModelError
from zsrobust.export.base import Request, Written, deterministic
from zsrobust.text_head import TextHead

GRAPH = "model.onnx"
TOLERANCE = 1e-4
"""Largest difference from torch, of a number of the unit features and of a cosine similarity."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_BATCHES = (1, 3)


class _Graph(nn.Module):
    """Pixels → unit features, and with a head the logits."""

    head: Tensor

    def __init__(self, encoder: nn.Module, head: TextHead | None, scale: float) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.scale = scale
        self.with_head = head is not None
        self.register_buffer("head", torch.zeros(0) if head is None else head.embeddings.clone(), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features = normalize(self.encoder.encode_pixels(pixels), dim=-1)
        return (features, self.scale * features @ self.head.T) if self.with_head else (features,)


def write(encoder: Encoder, folder: Path, request: Request) -> Written:
    """Fill the empty ``folder``.

    Raises:
        ConfigError: The packages of the extra ``onnx`` are not installed.
        ModelError: The encoder is no fixed function of the pixels, or onnxruntime does not give what torch gives.
    """
    model = deterministic(encoder)
    for package in PACKAGES:
        needed(package)
    heads = {name: head.to("cpu") for name, head in request.heads.items()}
    head = next(iter(heads.values())) if len(heads) == 1 else None
    graph = _Graph(model.copy().to("cpu"), head, model.logit_scale).eval()
    height, width = model.input_size
    described = (
        f"float32 (batch, 3, {height}, {width}), RGB pixels in [0, 1] already at {height}x{width}; "
        "mean and std are inside the graph"
    )
    program = _traced(graph, height, width)
    program.model.metadata_props.update({"zsrobust.model": request.title, "zsrobust.input": described})
    program.save(folder / GRAPH)
    largest = _checked(folder / GRAPH, graph, height, width)
    for name, each in heads.items():
        _save_head(folder / f"text_head-{name}.npz", each, model.logit_scale)
    outputs = ["image_features"] + (["logits"] if head is not None else [])
    facts = {
        "input": described,
        "input_size": [height, width],
        "outside_the_graph": f"decoding to RGB, PIL's resize and crop ({model.geometry.describe()}), division by 255",
        "outputs": outputs,
        "opset": int(program.model.opset_imports[""]),
        "largest_difference_from_torch": largest,
        "tolerance": TOLERANCE,
        "logit_scale": model.logit_scale,
        "text_heads": {name: list(each.class_names) for name, each in heads.items()},
    }
    return Written("onnx", "image-feature-extraction", _use(facts, heads), facts)


def needed(package: str) -> Any:
    """An optional package.

    Raises:
        ConfigError: It is not installed, or broken.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"the format onnx needs {package}: pip install 'zsrobust[onnx]' ({error})") from error


def _traced(graph: nn.Module, height: int, width: int) -> Any:
    outputs = ["image_features", "logits"] if graph.with_head else ["image_features"]
    with torch.no_grad(), _quiet():
        try:
            return torch.onnx.export(
                graph,
                (torch.full((2, 3, height, width), 0.5),),
                dynamo=True,
                verbose=False,
                input_names=["pixels"],
                output_names=outputs,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        except Exception as error:  # the exporter's own errors have no common base
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"torch.onnx cannot export this model: {line[:200]}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself: a package it does not need, and its own use of a deprecated name."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        log.setLevel(level)


@torch.no_grad()
def _checked(path: Path, graph: _Graph, height: int, width: int) -> dict[str, float]:
    """Largest differences from torch on noise, at batch sizes that were not traced.

    Raises:
        ModelError: One is above the tolerance.
    """
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    largest = {"image_features": 0.0} | ({"cosine_similarities": 0.0} if graph.with_head else {})
    for batch in _BATCHES:
        pixels = torch.rand((batch, 3, height, width), generator=generator)
        given = _run(session, pixels)
        wanted = graph(pixels)
        # Logits are cosines times a scale of up to 100, and so are their rounding errors.
        units = (1.0, graph.scale)[: len(largest)]
        for name, ours, theirs, unit in zip(largest, wanted, given, units, strict=True):
            largest[name] = max(largest[name], float(np.abs(ours.numpy() - theirs).max()) / unit)
    for name, difference in largest.items():
        if not difference <= TOLERANCE:
            raise ModelError(f"onnxruntime and torch differ by {difference:.1e} in {name} (allowed: {TOLERANCE:.0e})")
    return largest


def _run(session: Any, pixels: Tensor) -> list[np.ndarray]:
    try:
        given: list[np.ndarray] = session.run(None, {"pixels": pixels.numpy()})
    except Exception as error:  # onnxruntime's errors are classes of its own, below Exception
        line = " ".join(str(error).split())[:160]
        raise ModelError(f"onnxruntime cannot run what was written, at batch size {len(pixels)}: {line}") from error
    return given


def _save_head(path: Path, head: TextHead, scale: float) -> None:
    """The matrix with what its rows are; without pickled objects."""
    np.savez(
        path,
        embeddings=head.embeddings.numpy(),
        class_names=np.array(head.class_names),
        templates=np.array(head.templates),
        logit_scale=np.float32(scale),
    )


def _use(facts: Mapping[str, Any], heads: Mapping[str, TextHead]) -> str:
    height, width = facts["input_size"]
    rows = [
        f"| `{GRAPH}` input `pixels` | {facts['input']} |",
        "| output `image_features` | float32 (batch, D), of length 1 |",
    ]
    if "logits" in facts["outputs"]:
        rows.append("| output `logits` | float32 (batch, C): logit scale × cosine similarity, of the text head below |")
    for name, head in heads.items():
        what = f"`embeddings` (C, D) unit rows, `class_names`, `templates`, `logit_scale`; C = {len(head.class_names)}"
        rows.append(f"| `text_head-{name}.npz` | {what} |")
    table = "\n".join(["| | |", "|---|---|", *rows])
    measured = ", ".join(f"{name} {value:.1e}" for name, value in facts["largest_difference_from_torch"].items())
    run = _RUN.format(graph=GRAPH, height=height, width=width) + (
        _WITH_HEAD.format(name=next(iter(heads))) if heads else ""
    )
    return (
        f"## Use\n\n{table}\n\nOutside the graph: {facts['outside_the_graph']}.\nChecked when written, onnxruntime "
        f"against torch, largest difference: {measured}.\n\n```python\n{run}```\n"
    )


_RUN = """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{graph}")
pixels = np.random.rand(1, 3, {height}, {width}).astype("float32")   # your images: RGB, divided by 255
features = session.run(["image_features"], {{"pixels": pixels}})[0]
"""

_WITH_HEAD = """
head = np.load("text_head-{name}.npz")
logits = head["logit_scale"] * features @ head["embeddings"].T
print(head["class_names"][logits.argmax(1)])
"""
