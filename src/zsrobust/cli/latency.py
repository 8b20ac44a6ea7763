"""``zsrobust latency``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.cli.outputs import file_to_write
from zsrobust.errors import ConfigError


@dataclass(kw_only=True)
class LatencyOptions:
    """How long does a model take, and how much memory? Several models are compared with the first.

    Times what a product runs: image encoder and head, and with --image the preprocessing of a decoded image too. The
    text tower does not run: its head is computed once. Models are taken as 'zsrobust evaluate' takes them.
    """

    models: list[str] = field(default_factory=list, metadata=also("model") | WHOLE)
    """Models, also written without --models."""
    batch_sizes: list[int] = field(default_factory=lambda: [1, 16], metadata=also("batch_size"))
    """Images at a time."""
    classes: int = 1000
    """Classes of the head; at least 1."""
    image: str | None = None
    """An image file, to time preprocessing (resize and crop) as well. null: noise of the model's input size."""
    repetitions: int = 30
    """Timed batches of each size; at least 2."""
    warm_up: int = 5
    """Untimed batches before them."""
    threads: int | None = None
    """CPU threads. null: torch's choice."""
    seed: int = 0
    """Of the noise; not negative."""
    out: str | None = None
    """JSON file for the numbers, with machine and versions. null: none."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1 or mps."""


COMMAND = Command(
    name="latency",
    options=LatencyOptions,
    usage="MODEL... [--OPTION VALUE ...]",
    positional="models",
    examples=(
        "zsrobust latency tiny runs/mine --batch_sizes 1,16 --out latency.json",
        "zsrobust latency tiny tiny+ttc --image photo.jpg --threads 1",
    ),
)


def run(options: LatencyOptions) -> None:
    """Measures, and prints a table."""
    if not options.models:
        raise ConfigError("no model given: zsrobust latency MODEL... (for example: tiny)")
    out = None if options.out is None else file_to_write("--out", options.out)
    from zsrobust.cli.latency_words import tell
    from zsrobust.latency import check, latency, threads
    from zsrobust.models import load_model, what_was_found
    from zsrobust.run_folder import write_atomically
    from zsrobust.tasks.images import decode

    # What can be refused is refused before a model is loaded, and --threads holds while it is.
    check(
        batch_sizes=options.batch_sizes, classes=options.classes, repetitions=options.repetitions,
        warm_up=options.warm_up, seed=options.seed,
    )  # fmt: skip
    image = None if options.image is None else decode(Path(options.image).expanduser())
    with threads(options.threads):
        models = [load_model(model, device=options.device) for model in options.models]
        for line in filter(None, map(what_was_found, models)):
            print(line)
        found = latency(
            models, batch_sizes=options.batch_sizes, classes=options.classes, repetitions=options.repetitions,
            warm_up=options.warm_up, image=image, seed=options.seed,
        )  # fmt: skip
    if out is not None:  # before anything is told: whoever reads may leave early
        text = json.dumps({"format": "zsrobust.latency/1", **found.to_dict()}, indent=1, ensure_ascii=False)
        write_atomically(out, text.encode())
    tell(found)
    if out is not None:
        print(f"\nWritten  {options.out}")
