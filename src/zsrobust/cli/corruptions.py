"""``zsrobust corruptions``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.cli.naming import run_folder
from zsrobust.cli.parsing import dump
from zsrobust.errors import ConfigError


@dataclass(kw_only=True)
class CorruptionOptions:
    """Measure accuracy under natural corruptions: noise, blur, JPEG, brightness and contrast at five strengths.

    MODELs are as for 'zsrobust evaluate'; the others are compared with the first, image by image. No adversary takes
    part. The same command again goes on where it stopped.
    """

    models: list[str] = field(default_factory=list, metadata=also("model") | WHOLE)
    """Models, also written without --models."""
    tasks: list[str] = field(default_factory=list, metadata=also("task"))
    """Tasks: names (see 'zsrobust ls tasks'), a suite such as paper15, TOML files or folders of images."""
    corruptions: list[str] = field(default_factory=list, metadata=also("corruption"))
    """Of noise, shot, blur, defocus, jpeg, brightness and contrast. Empty: all."""
    strengths: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5], metadata=also("strength"))
    """Of 1 (mild) to 5."""
    run: str | None = field(default=None, metadata=also("out"))
    """Run folder: records and corruptions.json. null: one in runs/, named after models and tasks."""
    limit: int | None = None
    """At most so many images of each task, stratified by class; at least 1. null: all."""
    seed: int = 0
    """Of the noises, and of the images that --limit keeps; not negative."""
    split: str = "test"
    """Split of the tasks: test, validation or train."""
    batch_size: int = 256
    """Images in flight; at least 1."""
    data: str | None = None
    """Folder in which tasks look for their local data. null: $ZSROBUST_DATA, else ./data."""
    classes: list[str] = field(default_factory=list)
    """Names to use in the prompts, for one task. Empty: the tasks' own."""
    template: list[str] = field(default_factory=list, metadata=also("templates") | WHOLE)
    """Prompt template with one {} for the class name; repeat it for several. Empty: the tasks' own."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """At an unreadable image: stop, or skip."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1 or mps."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernels: sdpa, or eager."""


COMMAND = Command(
    name="corruptions",
    options=CorruptionOptions,
    usage="MODEL... --tasks A,B [--OPTION VALUE ...]",
    positional="models",
    examples=(
        "zsrobust corruptions tiny --tasks digits --limit 200",
        "zsrobust corruptions tiny runs/mine --tasks digits,world-shape --corruptions noise,jpeg --strengths 1,3,5",
    ),
)

_NOT_IN_NAME = ("run", "batch_size", "device")


def run(options: CorruptionOptions) -> None:
    """Measures, prints a table for each task, and says where the numbers are."""
    if not options.models:
        raise ConfigError(f"no model given: zsrobust corruptions {COMMAND.usage} (for example: tiny)")
    if not options.tasks:
        raise ConfigError("no task given: --tasks A,B ('zsrobust ls tasks' lists them)")
    from zsrobust.api import resolve_tasks
    from zsrobust.cli.corruptions_words import lines
    from zsrobust.corruptions import check, corrupted_accuracy
    from zsrobust.models import load_model, what_was_found
    from zsrobust.run_folder import write_atomically
    from zsrobust.tasks.corruptions import NAMES

    names = options.corruptions or list(NAMES)
    check(corruptions=names, strengths=options.strengths, seed=options.seed, batch_size=options.batch_size)
    fixed = {name: value for name, value in asdict(options).items() if name not in _NOT_IN_NAME}
    folder = run_folder(options.run, ["corruptions", *options.models[:2], *options.tasks[:2]], fixed)
    tasks = resolve_tasks(
        options.tasks, split=options.split, limit=options.limit, seed=options.seed, data=options.data,
        classes=options.classes, templates=options.template, on_bad_image=options.on_bad_image,
    )  # fmt: skip
    models = [load_model(model, device=options.device, attention=options.attention) for model in options.models]
    for line in filter(None, map(what_was_found, models)):
        print(line)
    if (folder / "records.jsonl").exists():
        print(f"Going on with {folder}: what is there already is not computed again.")
    table = corrupted_accuracy(
        models, tasks, run=folder, corruptions=names, strengths=options.strengths, seed=options.seed,
        batch_size=options.batch_size,
    )  # fmt: skip
    write_atomically(folder / "config.yaml", dump(options, "corruptions").encode())
    print("\n".join(lines(table)))
    print(f"Numbers  {folder / 'corruptions.json'}")
