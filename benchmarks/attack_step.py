"""How fast is one PGD step on CLIP ViT-B/32 at 224, and how close is that to what the machine can multiply?

    python benchmarks/attack_step.py [--batch-size 16] [--classes 10] [--precision float32 bf16]

Random weights: a measurement of speed, no claim of accuracy. The floor is the time that the matrix products of the
step alone take at their own shapes and precision, measured in the same run; the text tower's forwards are counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from zsrobust import PGD, Threat
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.encoders.preprocessing import Preprocessing
from zsrobust.geometry import Geometry
from zsrobust.losses import cross_entropy
from zsrobust.passes import frozen
from zsrobust.run_folder import versions
from zsrobust.text_head import TextHead

SIZE, PATCH, WIDTH, LAYERS, HEADS, EMBEDDING = 224, 32, 768, 12, 12, 512
TOKENS = (SIZE // PATCH) ** 2 + 1
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def seconds(work: Callable[[], object], *, repeats: int) -> float:
    """Median time of ``work`` after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matrix_products(batch: int, classes: int) -> list[tuple[int, int, int, int]]:
    """(count, rows, inner, columns) of every matrix product of a forward pass, attention's included."""
    rows = batch * TOKENS
    return [
        (1, batch * (TOKENS - 1), 3 * PATCH * PATCH, WIDTH),
        (4 * LAYERS, rows, WIDTH, WIDTH),
        (LAYERS, rows, WIDTH, 4 * WIDTH),
        (LAYERS, rows, 4 * WIDTH, WIDTH),
        (LAYERS * batch * HEADS * 2, TOKENS, WIDTH // HEADS, TOKENS),
        (1, batch, WIDTH, EMBEDDING),
        (1, batch, EMBEDDING, classes),
    ]


def floor(batch: int, classes: int, dtype: torch.dtype, device: str, repeats: int) -> tuple[float, float]:
    """Seconds that a step's matrix products take, and their number of operations.

    The backward pass towards the pixels has one product for each of the forward's (none for the weights); attention's
    products have two.
    """
    total, operations = 0.0, 0.0
    for count, m, k, n in matrix_products(batch, classes):
        attention = m == TOKENS
        passes = 3 if attention else 2
        groups, each = (batch * HEADS, count // (batch * HEADS)) if attention else (1, count)
        left = torch.randn(groups, m, k, device=device, dtype=dtype)
        right = torch.randn(groups, k, n, device=device, dtype=dtype)
        one = seconds(lambda a=left, b=right: torch.bmm(a, b), repeats=repeats)  # type: ignore[misc]
        total += each * passes * one
        operations += passes * count * 2 * m * k * n
    return total, operations


def build(attention: str, device: str) -> HuggingFaceEncoder:
    config = CLIPConfig(
        vision_config={
            "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "image_size": SIZE, "patch_size": PATCH,
        },
        projection_dim=EMBEDDING,
    )  # fmt: skip
    model = CLIPModel._from_config(config, attn_implementation=attention)
    geometry = Geometry(resize=SIZE, crop=SIZE)
    preprocessing = Preprocessing(CLIP_MEAN, CLIP_STD, (SIZE, SIZE), geometry, {})
    return HuggingFaceEncoder(model, None, preprocessing, name="random ViT-B/32", provenance={}).to(device)  # type: ignore[arg-type]


def measure(precision: str, attention: str, arguments: argparse.Namespace) -> dict[str, object]:
    torch.manual_seed(0)
    device, batch = arguments.device, arguments.batch_size
    encoder = build(attention, device)
    texts = nn.functional.normalize(torch.randn(arguments.classes, EMBEDDING, device=device), dim=1)
    head = TextHead(tuple(map(str, range(arguments.classes))), ("{}",), texts)
    calls = [0]
    encoder.model.text_model.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    pixels = torch.rand(batch, 3, SIZE, SIZE, device=device)
    labels = torch.randint(arguments.classes, (batch,), device=device)
    attack = PGD(Threat("linf", "1/255"), steps=arguments.steps, step_size=1 / 255)
    keys = [(0, i) for i in range(batch)]

    def objective(points: Tensor) -> Tensor:
        return cross_entropy(head(encoder.encode_pixels(points), 100.0), labels)

    def run() -> None:
        with frozen(encoder), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            attack.perturb(objective, pixels, keys=keys)

    step = seconds(run, repeats=arguments.repeats) / arguments.steps
    products, operations = floor(batch, arguments.classes, DTYPES[precision], device, arguments.repeats)
    return {
        "precision": precision,
        "attention": attention,
        "images_per_second": batch / step,
        "floor_images_per_second": batch / products,
        "ratio_to_floor": products / step,
        "floor_gflops": operations / products / 1e9,
        "text_tower_forwards": calls[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3, help="PGD steps in one timed call")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", nargs="+", choices=sorted(DTYPES), default=["float32", "bf16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/attack_step.json"))
    arguments = parser.parse_args()
    rows = [measure(p, a, arguments) for p in arguments.precision for a in ("sdpa", "eager")]
    print("precision  attention  images/s  floor images/s  share of floor  GFLOP/s of the floor  text forwards")
    for row in rows:
        print(
            f"{row['precision']:9}  {row['attention']:9}  {row['images_per_second']:8.1f}  "
            f"{row['floor_images_per_second']:14.1f}  {row['ratio_to_floor']:13.0%}  "
            f"{row['floor_gflops']:21.0f}  {row['text_tower_forwards']:13}"
        )
    machine = {"processor": platform.machine(), "threads": torch.get_num_threads(), "device": arguments.device}
    setting = {"batch_size": arguments.batch_size, "classes": arguments.classes, "steps": arguments.steps}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps({"machine": machine, "versions": versions(), **setting, "figures": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
