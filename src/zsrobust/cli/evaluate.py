"""``zsrobust evaluate``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.cli.naming import LATER, run_folder
from zsrobust.cli.parsing import dump
from zsrobust.cli.settings import DEFAULT_ATTACK, EvaluateSettings, check_steps
from zsrobust.errors import ConfigError


@dataclass(kw_only=True)
class EvaluateOptions(EvaluateSettings):
    """Measure clean and robust accuracy, task by task.

    MODEL is a name (see 'zsrobust ls models'), a folder (of a model, or a run of 'zsrobust adapt') or a hub id;
    a checkpoint file with its options (file.pt:base=MODEL:activation=quick_gelu:size=336); and behind a test-time
    defence MODEL+ttc. Several models are compared in one report. The same command again goes on where it stopped.
    """

    models: list[str] = field(default_factory=list, metadata=also("model") | WHOLE)
    """Models, also written without --models."""
    run: str | None = field(default=None, metadata=also("out"))
    """Run folder: records, summary and report. null: one in runs/, named after models and tasks."""
    pictures: bool = False
    """Show one attacked image of each task in the HTML report."""
    save_images: str | None = None
    """Folder for every adversarial image that is computed, as PNG; what the run has already is not computed again.
    null: they are not kept."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1 or mps."""


COMMAND = Command(
    name="evaluate",
    options=EvaluateOptions,
    usage="MODEL... --tasks A,B [--OPTION VALUE ...]",
    positional="models",
    examples=(
        "zsrobust evaluate tiny --tasks digits,world-shape --threat linf:4/255 --limit 100",
        "zsrobust evaluate tiny --tasks digits --attacks autoattack --limit 25",
        "zsrobust evaluate tiny runs/mine --tasks digits --eps 0,1/255,2/255,4/255",
        'zsrobust evaluate tiny --tasks my-photos --classes "a cat,a dog" --template "a photo of {}"',
    ),
)

_NOT_IN_NAME = ("run", "pictures", "save_images", "batch_size", "device")


def run(options: EvaluateOptions) -> None:
    """Evaluates, prints the table, and says where the report is."""
    if not options.models:
        raise ConfigError("no model given: zsrobust evaluate MODEL --tasks A,B (for example: tiny)")
    if not options.tasks:
        raise ConfigError("no task given: --tasks A,B ('zsrobust ls tasks' lists them)")
    check_steps(options.steps, options.attacks, DEFAULT_ATTACK, "--attacks")
    from zsrobust.jobs import evaluate_job
    from zsrobust.report import terminal

    plain = asdict(options)
    fixed = {name: value for name, value in plain.items() if name not in _NOT_IN_NAME and LATER.get(name, ...) != value}
    tasks = options.tasks if len(options.tasks) <= 2 else [f"{len(options.tasks)}-tasks"]
    folder = run_folder(plain.pop("run"), ["evaluate", *options.models[:2], *tasks], fixed)
    try:
        evaluation = evaluate_job(run=folder, config=dump(options, "evaluate"), say=print, **plain)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on where it stopped") from None
    terminal(evaluation.summary)
    if evaluation.images:
        print(f"Images   {options.save_images} ({evaluation.images:,} of them now)")
    print(f"Summary  {folder / 'summary.json'}")
    print(f"Report   {folder / 'report.html'}")
