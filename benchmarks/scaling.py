"""What more GPUs and more nodes buy: counted, and computed from rates that you give. Nothing here is a measurement.

    python -m benchmarks.scaling [--model vit-b-32 …] [--gpus 8] [--nodes 4] [--bandwidth GB/s …] [--rate TFLOP/s …]

Counted (``benchmarks/tower_counts.py``): weights, operations of a training step, bytes summed over the processes, bytes
kept in memory. Given by you: what a GPU achieves (--rate, operations that it does in a second in *your* training) and
what the slowest link carries (--bandwidth, the "busbw" that nccl-tests print for all_reduce); the defaults are examples
and describe no machine. Simulated (``benchmarks/scaling_checks.py``): how evenly an evaluation is shared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.scaling_checks import Shared, over_draws, ring_bytes, sharded_bytes
from benchmarks.tower_counts import FLOAT32, SHAPES, Kept, Operations, Shape, kept, operations, weights

from zsrobust.evaluation import BATCH_SIZE
from zsrobust.passes import ROWS
from zsrobust.records import Record
from zsrobust.run_folder import versions

GIB = 2**30
STATES = {"sgd": 1, "adamw": 2}
"""Numbers that an optimizer keeps for each weight: momentum; first and second moment."""
HIDDEN = 0.95
"""Efficiency that "needed bandwidth" is about."""


@dataclass(frozen=True)
class Tower:
    """What was counted of a model."""

    name: str
    shape: Shape
    trained: int
    model: int
    operations: Operations

    @classmethod
    def of(cls, name: str) -> Tower:
        """Counts it; a few seconds."""
        shape = SHAPES[name]
        return cls(name, shape, *weights(shape), operations(shape))


@dataclass(frozen=True)
class Step:
    """A training step on some GPUs, from counts and from rates that were given.

    Attributes:
        images: On each GPU.
        attack_steps: K of the training adversary; 0: clean training.
        rate: Operations in a second, of each GPU.
        bandwidth: Bytes in a second, of the slowest link, as nccl-tests' busbw counts them.
    """

    tower: Tower
    gpus: int
    images: float
    attack_steps: int
    rate: float
    bandwidth: float

    @property
    def computing(self) -> float:
        """Seconds."""
        return self.images * self.tower.operations.step(self.attack_steps) / self.rate

    @property
    def talking(self) -> float:
        """Seconds that summing the gradients takes by itself."""
        return ring_bytes(self.tower.trained * FLOAT32, self.gpus) / self.bandwidth

    def efficiency(self, *, hidden: bool) -> float:
        """Share of the time that GPUs compute.

        Args:
            hidden: Whether the sum goes on behind the backward pass of the training loss, as much of it as fits there
                (what DistributedDataParallel aims at); otherwise after it. The truth lies between the two.
        """
        behind = self.images * self.tower.operations.to_weights / self.rate if hidden else 0.0
        return self.computing / (self.computing + max(0.0, self.talking - behind))

    @property
    def needed(self) -> float:
        """Bytes in a second with which 95 % is reached even if nothing is hidden."""
        return HIDDEN / (1 - HIDDEN) * self.talking * self.bandwidth / self.computing

    @property
    def enough(self) -> float:
        """Images on each GPU with which 95 % is reached even if nothing is hidden."""
        return HIDDEN / (1 - HIDDEN) * self.talking / self.computing * self.images


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown; all columns but the first are numbers."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def counts(towers: Sequence[Tower], attack_steps: Sequence[int]) -> str:
    """Weights, gradient bytes and operations; and operations for each byte that crosses a link."""
    head = ["model", "weights trained, million", "gradient, MiB", "forward, GFLOP an image", "to the pixels",
            "to the weights", *(f"step, K = {k}" for k in attack_steps)]  # fmt: skip
    rows = []
    for t in towers:
        ops = t.operations
        each = (ops.forward, ops.to_pixels, ops.to_weights, *(ops.step(k) for k in attack_steps))
        rows.append(
            [t.name, f"{t.trained / 1e6:.1f}", f"{t.trained * FLOAT32 / 2**20:.0f}", *(f"{n / 1e9:.1f}" for n in each)]
        )
    return table(head, rows)


def volumes(towers: Sequence[Tower], worlds: Sequence[int], attack_steps: Sequence[int], batch: int) -> str:
    """Bytes that each GPU sends in a step, and operations that it has for each of them at one global batch."""
    head = ["model", "GPUs", "sent by each GPU a step, MiB", *(f"operations a byte, K = {k}" for k in attack_steps)]
    rows = []
    for t in towers:
        for n in worlds:
            sent = ring_bytes(t.trained * FLOAT32, n)
            each = [f"{batch / n * t.operations.step(k) / sent:,.0f}" for k in attack_steps]
            rows.append([t.name, n, f"{sent / 2**20:.0f}", *each])
    return table(head, rows)


def steps(towers: Sequence[Tower], arguments: argparse.Namespace, rate: float) -> str:
    """Efficiency at a fixed global batch, without and with the sum hidden behind the backward pass."""
    head = ["model", "GPUs", "link, GB/s", *(f"K = {k}" for k in arguments.steps), "GB/s for 95 % at K = 2",
            "images a GPU for 95 % at K = 2"]  # fmt: skip
    rows = []
    for t in towers:
        for n in arguments.worlds:
            for link in arguments.bandwidth:
                made = [Step(t, n, arguments.batch / n, k, rate * 1e12, link * 1e9) for k in arguments.steps]
                cells = [f"{s.efficiency(hidden=False):.0%} to {s.efficiency(hidden=True):.0%}" for s in made]
                two = Step(t, n, arguments.batch / n, 2, rate * 1e12, link * 1e9)
                rows.append([t.name, n, f"{link:g}", *cells, f"{two.needed / 1e9:.0f}", f"{two.enough:.0f}"])
    return table(head, rows)


GATHERS: dict[str, Callable[[int], int]] = {
    "in each forward and each backward pass (reshard_after_forward=True)": lambda k: 2 * (k + 1),
    "in each forward pass (reshard_after_forward=False)": lambda k: k + 1,
    "once for the attack, once for the training pass": lambda k: 2 if k else 1,
}
"""When the weights of a sharded tower are gathered in a step of K attack steps → how often."""


def sharded(ranks: int, attack_steps: Sequence[int]) -> str:
    """Bytes of a step with a sharded tower, over those of DistributedDataParallel."""
    rows = [
        [when, *(f"{sharded_bytes(1, ranks, often(k)) / ring_bytes(1, ranks):.1f}" for k in attack_steps)]
        for when, often in GATHERS.items()
    ]
    return table(["weights are gathered", *(f"K = {k}" for k in attack_steps)], rows)


def memory(towers: Sequence[Tower], images: Sequence[int], gpus: int) -> tuple[str, list[dict[str, Any]]]:
    """GiB of a GPU: what stays, and what autograd keeps for so many images on it."""
    head = ["model", "optimizer", "precision", "stays", f"stays, sharded over {gpus}",
            "MiB an image: attack", "training", "training, checkpointed",
            *(f"{n} images" for n in images), *(f"{n}, checkpointed" for n in images)]  # fmt: skip
    rows, found = [], []
    for t in towers:
        for precision in ("float32", "bf16"):
            attack, train = (kept(t.shape, attack=a, bf16=precision == "bf16") for a in (True, False))
            found.append({"model": t.name, "precision": precision, "attack": asdict(attack), "training": asdict(train)})
            for optimizer, states in STATES.items():
                # Two whole models (the one that is adapted, and as it was), gradients (DDP's buckets are the same
                # memory), optimizer.
                stays = FLOAT32 * (2 * t.model + (1 + states) * t.trained)
                # Sharded: the tower that is trained, its gradients and its optimizer are in parts; the rest is whole.
                parted = FLOAT32 * (2 * t.model - t.trained + (2 + states) * t.trained / gpus)
                short = train.checkpointed(t.shape)
                sums = [_peak(stays, attack, train, train.image, n) for n in images]
                less = [_peak(stays, attack, train, short, n) for n in images]
                each = (attack.image, train.image, short)
                rows.append(
                    [
                        t.name,
                        optimizer,
                        precision,
                        f"{stays / GIB:.1f}",
                        f"{parted / GIB:.1f}",
                        *(f"{b / 2**20:.1f}" for b in each),
                    ]
                    + [f"{b / GIB:.1f}" for b in (*sums, *less)]
                )
    return table(head, rows), found


def _peak(stays: int, attack: Kept, train: Kept, image: int, images: int) -> float:
    """The larger of the two passes; only the learner's can be checkpointed."""
    return stays + max(attack.fixed + images * attack.image, train.fixed + images * image)


def record_bytes() -> int:
    """Of a line of the records, of usual size."""
    line = Record(
        model="openai/clip-vit-base-patch32+tecoa", task="imagenet", example=49_999, image="f3a1c09e5b7d2e84",
        label=999, seed=0, attack="autoattack/apgd:ce", threat="linf:1/255:native", prediction=998, correct=False,
        margin=-0.123456789012, size=0.00392156862745098, forwards=101, backwards=100,
    ).to_json()  # fmt: skip
    return len(line.encode()) + 1


def evaluation(
    processes: Sequence[int], images: Sequence[int], arguments: argparse.Namespace
) -> tuple[str, list[dict[str, Any]]]:
    """Efficiency of sharing images of which some cost a hundred times what others do."""
    head = ["processes", "images", "as the program cuts", "one piece each", "two", "four", "pieces of 8 images",
            "of 32, dealt out beforehand"]  # fmt: skip
    rows, found = [], []
    for n in processes:
        for total in images:
            sizes = [min(BATCH_SIZE, ROWS * -(-total // (each * n * ROWS))) for each in (1, 2, 4)]
            robust, draws, seed = arguments.robust, arguments.draws, arguments.seed
            asked = [Shared(total, n, chunk, robust=robust) for chunk in (None, *sizes, 8)]
            cells = []
            for shared in (*asked, Shared(total, n, 32, robust=robust, way="fixed")):
                mean, low, high = over_draws(shared, draws=draws, seed=seed)
                found.append({**asdict(shared), "mean": mean, "low": low, "high": high, "draws": draws, "seed": seed})
                cells.append(f"{mean:.0%} ({low:.0%} to {high:.0%})")
            rows.append([n, f"{total:,}", *cells])
    return table(head, rows), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=SHAPES, default=["vit-b-32", "vit-l-14", "vit-h-14"])
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of a node")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--batch", type=int, default=256, help="images of an optimizer step, over all GPUs")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 2, 10], help="K of the training adversary")
    parser.add_argument("--rate", type=float, nargs="+", default=[50.0, 200.0], help="TFLOP/s achieved: an assumption")
    parser.add_argument("--bandwidth", type=float, nargs="+", default=[1.0, 10.0, 100.0], help="GB/s: an assumption")
    parser.add_argument("--images", type=int, nargs="+", default=[8, 32, 128], help="on a GPU, for memory")
    parser.add_argument("--robust", type=float, default=0.4, help="share of images that survive: an assumption")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scaling.json"))
    arguments = parser.parse_args()
    if arguments.gpus < 2 or arguments.nodes < 1:
        parser.error("a plan needs at least 2 GPUs on at least 1 node")
    arguments.worlds = sorted({arguments.gpus, arguments.gpus * arguments.nodes})
    towers = [Tower.of(name) for name in arguments.model]
    print("## Counted\n\n" + counts(towers, arguments.steps))
    print("\n" + volumes(towers, arguments.worlds, arguments.steps, arguments.batch))
    print("\n## Counted: bytes of FSDP2 over those of DistributedDataParallel\n")
    print(sharded(arguments.gpus, arguments.steps))
    for rate in arguments.rate:
        print(f"\n## Computed: global batch {arguments.batch}, each GPU assumed to do {rate:g} TFLOP/s\n")
        print(steps(towers, arguments, rate))
    text, kept_bytes = memory(towers, arguments.images, arguments.gpus)
    print("\n## Counted: memory of a GPU, GiB\n\n" + text)
    text, shared = evaluation([8, 32], [1000, 10_000, 50_000], arguments)
    print(f"\n## Simulated: sharing an evaluation, {arguments.robust:.0%} robust, {arguments.draws} draws\n\n" + text)
    line, lines = record_bytes(), 5 * 50_000
    print(f"\nA record has {line} bytes; 50,000 images, clean and four attacks: {lines * line / 2**20:.0f} MiB")
    counted = [{"model": t.name, "trained": t.trained, "whole": t.model, **asdict(t.operations)} for t in towers]
    found = {"versions": versions(), "counted": counted, "kept": kept_bytes, "record": line, "shared": shared}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
