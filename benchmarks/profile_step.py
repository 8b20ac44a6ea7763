"""Where does the time of one PGD step on CLIP ViT-B/32 at 224 go?

    python -m benchmarks.profile_step [--batch-size 16] [--classes 10] [--precision float32 bf16]
    python -m benchmarks.profile_step --switches

The first form sorts torch.profiler's self times of one attack step (forward, backward to the pixels, the step itself)
into kinds. bf16 is the encoder's ``lowered()``, which evaluation's fast mode and scouts run. The second form times the
same step as attention and ``torch.compile`` change it; compiling takes minutes. Times are CPU seconds of one thread
where the device is a CPU, so that other programs on the machine disturb less. Random weights: no claim of accuracy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from benchmarks.speed.models import VIT_B_32, random_encoder
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from zsrobust import PGD, Threat
from zsrobust.encoders.huggingface import HuggingFaceEncoder
from zsrobust.latency import describe_machine
from zsrobust.losses import cross_entropy
from zsrobust.passes import frozen
from zsrobust.text_head import TextHead

KINDS = {
    "matrix products": ("addmm", "aten::mm", "convolution", "mkldnn_linear", "onednn", "mkl"),
    "attention": ("scaled_dot_product", "flash", "bmm", "softmax"),
    "layer norm": ("layer_norm",),
    "gelu": ("sigmoid", "gelu"),
    "casts and copies": ("copy_", "_to_copy", "clone", "contiguous", "cat", "fill_", "zero"),
    "sums and products, element by element": ("mul", "add", "sub", "div", "sum", "neg"),
    "pixels: sign, projection, random start": ("sign", "minimum", "maximum", "clamp", "uniform"),
}


def kind(name: str) -> str:
    """Where a row of the profiler belongs; the first kind that fits."""
    lower = name.lower()
    return next((title for title, words in KINDS.items() if any(word in lower for word in words)), "other")


def attack_step(encoder: HuggingFaceEncoder, precision: str, arguments: argparse.Namespace) -> Callable[[], None]:
    """One PGD step against a cached head."""
    torch.manual_seed(0)
    device = arguments.device
    texts = nn.functional.normalize(torch.randn(arguments.classes, VIT_B_32.embedding, device=device), dim=1)
    head = TextHead(tuple(map(str, range(arguments.classes))), ("{}",), texts)
    pixels = torch.rand(arguments.batch_size, 3, VIT_B_32.size, VIT_B_32.size, device=device)
    labels = torch.randint(arguments.classes, (arguments.batch_size,), device=device)
    attack = PGD(Threat("linf", "1/255"), steps=1, step_size=1 / 255)
    keys = [(0, i) for i in range(arguments.batch_size)]

    def objective(points: Tensor) -> Tensor:
        return cross_entropy(head(encoder.encode_pixels(points), 100.0), labels)

    def run() -> None:
        with frozen(encoder), encoder.lowered() if precision == "bf16" else nullcontext():
            attack.perturb(objective, pixels, keys=keys)

    return run


def shares(run: Callable[[], None], device: str) -> dict[str, float]:
    """Kind → share of the step's self time."""
    run()
    cuda = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        run()
    taken: dict[str, float] = defaultdict(float)
    for row in seen.key_averages():
        taken[kind(row.key)] += row.self_device_time_total if cuda else row.self_cpu_time_total
    whole = sum(taken.values())
    return {title: taken[title] / whole for title in sorted(taken, key=lambda title: -taken[title])}


def clock(device: str) -> float:
    """Seconds of this process's work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def profiled(arguments: argparse.Namespace) -> dict[str, object]:
    """The table of shares, printed."""
    device = arguments.device
    found = {
        p: shares(attack_step(random_encoder(VIT_B_32, device, attention="sdpa"), p, arguments), device)
        for p in arguments.precision
    }
    print("| part of an attack step | " + " | ".join(found) + " |")
    print("|---|" + "---:|" * len(found))
    for title in found[arguments.precision[0]]:
        print(f"| {title} | " + " | ".join(f"{column.get(title, 0.0):.0%}" for column in found.values()) + " |")
    return {"shares": found}


def switched(arguments: argparse.Namespace) -> dict[str, object]:
    """Images a second with each attention, and compiled; all take turns."""
    rows: list[dict[str, object]] = []
    for precision in arguments.precision:
        runs, first = {}, {}
        for name in ("sdpa", "eager", "sdpa, compiled"):
            encoder = random_encoder(VIT_B_32, arguments.device, attention=name.partition(",")[0])
            if "compiled" in name:
                encoder.set_compiled("gradients")
            runs[name] = attack_step(encoder, precision, arguments)
            begun = clock(arguments.device)
            runs[name]()
            first[name] = clock(arguments.device) - begun
        taken: dict[str, list[float]] = defaultdict(list)
        for _ in range(arguments.repeats):
            for name, run in runs.items():
                begun = clock(arguments.device)
                run()
                taken[name].append(clock(arguments.device) - begun)
        for name, seconds in taken.items():
            speed = arguments.batch_size / statistics.median(seconds)
            rows.append({"precision": precision, "kind": name, "images_per_second": speed, "first_call_s": first[name]})
            print(f"{precision:8} {name:15} {speed:7.2f} images/s, first call {first[name]:6.1f} s", flush=True)
    return {"switches": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", nargs="+", choices=["float32", "bf16"], default=["float32", "bf16"])
    parser.add_argument("--switches", action="store_true", help="time attention and compile in place of a profile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="also write a JSON file")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    figures = switched(arguments) if arguments.switches else profiled(arguments)
    if arguments.out is not None:
        setting = {"batch_size": arguments.batch_size, "classes": arguments.classes}
        machine = describe_machine(torch.device(arguments.device))
        arguments.out.write_text(json.dumps({"machine": machine, **setting, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
