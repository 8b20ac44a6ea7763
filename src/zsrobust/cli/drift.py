"""``zsrobust drift``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.cli.outputs import file_to_write
from zsrobust.errors import ConfigError


@dataclass(kw_only=True)
class DriftOptions:
    """How far did the embeddings move, and must an index of images be built anew? On images of one's own.

    ORIGINAL is the model that made the index, ADAPTED the one that is to answer queries. Names (see 'zsrobust ls
    models'), folders (of a model, or a run of 'zsrobust adapt') or hub ids.
    """

    models: list[str] = field(default_factory=list, metadata=also("model") | WHOLE)
    """The original and the adapted model, in this order; also written without --models."""
    images: str | None = None
    """Folder of images, at any depth; no classes are needed."""
    tasks: list[str] = field(default_factory=list, metadata=also("task"))
    """Tasks in place of a folder (see 'zsrobust ls tasks'); their classes tell more. Each is an index of its own."""
    text: list[str] = field(default_factory=list, metadata=also("texts") | WHOLE)
    """A text query of yours; repeat it for several. Empty: a task's class names."""
    limit: int | None = None
    """At most so many images, drawn at random; at least 1. null: all."""
    k: list[int] = field(default_factory=lambda: [1, 10])
    """How many images a search returns; the largest decides the verdict."""
    accept: float = 0.9
    """Share of former neighbours that must come back for the old index to stay, above 0 and at most 1."""
    seed: int = 0
    """Of the images that --limit keeps, of a corrupted task's noise, and of the intervals; not negative."""
    split: str = "test"
    """Split of the tasks: test, validation or train."""
    data: str | None = None
    """Folder in which tasks look for their local data. null: $ZSROBUST_DATA, else ./data."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """At an unreadable image: stop, or skip (it is counted and listed)."""
    batch_size: int = 64
    """Images in a forward pass; at least 1."""
    out: str | None = None
    """JSON file for everything that was measured. null: none."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1 or mps."""


COMMAND = Command(
    name="drift",
    options=DriftOptions,
    usage="ORIGINAL ADAPTED --images=FOLDER [--OPTION VALUE ...]",
    positional="models",
    examples=(
        "zsrobust drift tiny runs/mine --images my-photos --limit 2000",
        'zsrobust drift tiny runs/mine --images my-photos --text "a red car" --text "a beach"',
        "zsrobust drift tiny runs/mine --tasks digits,world-shape --limit 500 --out drift.json",
    ),
)


def run(options: DriftOptions) -> None:
    """Measures, prints a table and a verdict for each set of images."""
    if len(options.models) != 2:
        raise ConfigError(f"two models are compared, not {len(options.models)}: zsrobust drift {COMMAND.usage}")
    if (options.images is None) == (not options.tasks):
        raise ConfigError("give --images FOLDER or --tasks A,B, and not both")
    if options.images is not None and (options.split != "test" or options.data is not None):
        raise ConfigError("--split and --data are for --tasks; of --images FOLDER every image is taken")
    out = None if options.out is None else file_to_write("--out", options.out)
    from zsrobust.api import resolve_tasks
    from zsrobust.cli.drift_words import rule, tell, verdict
    from zsrobust.drift import check, drift, opened
    from zsrobust.models import load_model, what_was_found
    from zsrobust.run_folder import versions, write_atomically

    # All of this is before a model is loaded.
    check(
        k=options.k, limit=options.limit, seed=options.seed, texts=options.text, accept=options.accept,
        on_bad_image=options.on_bad_image, batch_size=options.batch_size,
    )  # fmt: skip
    sets = (
        [options.images]
        if options.images is not None
        else resolve_tasks(options.tasks, split=options.split, seed=options.seed, data=options.data)
    )
    for images in sets:
        opened(images, k=options.k, limit=options.limit, seed=options.seed)
    original, adapted = (load_model(model, device=options.device) for model in options.models)
    for line in filter(None, map(what_was_found, (original, adapted))):
        print(line)
    print(f"Original {original.name}")
    print(f"Adapted  {adapted.name}")
    measured = []
    for images in sets:
        found = drift(
            original, adapted, images, k=options.k, limit=options.limit, seed=options.seed, texts=options.text,
            accept=options.accept, on_bad_image=options.on_bad_image, batch_size=options.batch_size,
        )  # fmt: skip
        measured.append(found)
    if out is not None:  # before anything is told: whoever reads may leave early
        told = [found.to_dict() | {"verdict": list(verdict(found)), "rule": rule(found)} for found in measured]
        content = {"format": "zsrobust.drift/1", "versions": versions(), "sets": told}
        write_atomically(out, json.dumps(content, indent=1, ensure_ascii=False).encode())
    for found in measured:
        tell(found)
    if out is not None:
        print(f"\nWritten  {options.out}")
