"""``zsrobust adapt``."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path

from zsrobust.cli.command import Command, also
from zsrobust.cli.naming import LATER, run_folder
from zsrobust.cli.parsing import dump
from zsrobust.cli.settings import AdaptSettings


@dataclass(kw_only=True)
class AdaptOptions(AdaptSettings):
    """Adapt a model so that it withstands adversarial images.

    RECIPE is the name of a shipped recipe (see 'zsrobust ls recipes') or a YAML file with options. The run folder holds
    the configuration, checkpoints, metrics and at last the model. The same command again goes on where it stopped.
    """

    ema: float | None = None
    """The result is an exponential moving average of the weights with this decay, between 0 and 1. null: it is the
    weights after the last step."""
    soup: int | None = None
    """The result is the mean of the weights at so many evenly spaced steps of the second half of the run, the last one
    among them; at least 2. null: it is not."""
    run: str | None = field(default=None, metadata=also("out"))
    """Run folder. null: one in runs/, named after model, method and task."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1 or mps."""
    tensorboard: bool = False
    """Also write TensorBoard events into the run folder."""


COMMAND = Command(
    name="adapt",
    options=AdaptOptions,
    usage="[RECIPE] [--OPTION VALUE ...]",
    positional="config",
    examples=(
        "zsrobust adapt --model tiny --task world-compositions --threat linf:4/255 --epochs 1",
        "zsrobust adapt my-recipe.yaml --lr 1e-4 --run runs/mine",
        "zsrobust adapt --print_config > my-recipe.yaml",
    ),
)

_LATER = {"ema": None, "soup": None}
"""As :data:`zsrobust.cli.naming.LATER`, of this command alone."""
_NOT_IN_NAME = ("run", "device", "tensorboard", "checkpoint_every", "log_every")


def run(options: AdaptOptions) -> None:
    """Adapts, saves, and says how to go on."""
    from zsrobust.jobs import adapt_job
    from zsrobust.recipe import LATER as LATER_IN_RECIPES

    plain = asdict(options)
    later = LATER | LATER_IN_RECIPES | _LATER
    fixed = {name: value for name, value in plain.items() if name not in _NOT_IN_NAME and later.get(name, ...) != value}
    folder = run_folder(plain.pop("run"), [options.model, options.method, options.task], fixed)
    try:
        adapt_job(run=folder, config=dump(options, "adapt"), say=print, **plain)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_advice(folder)) from None
    words = ["evaluate", options.model, str(folder), "--tasks", options.task, "--threat", options.threat]
    for name, given in (("classes", options.classes), ("select", options.select)):
        words += [f"--{name}", ",".join(given)] if given else []
    words += ["--data", options.data] if options.data is not None else []
    words += [word for template in options.template for word in ("--template", template)]
    print(f"Next   zsrobust {shlex.join(words)}")


def _advice(folder: Path) -> str:
    from zsrobust.checkpoint import latest

    last = latest(folder / "checkpoints")
    if last is None:
        return "there was no checkpoint yet: the same command starts again"
    return f"the same command goes on from step {int(last.name.removeprefix('step-'))}"
