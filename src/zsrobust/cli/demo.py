"""``zsrobust demo``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from zsrobust.cli.adapt import AdaptOptions
from zsrobust.cli.command import Command, also
from zsrobust.cli.parsing import dump
from zsrobust.cli.settings import DEFAULT_ATTACK, AdaptSettings, EvaluateSettings, check_steps


@dataclass(kw_only=True)
class DemoOptions:
    """The whole story on the embedded model, without network or GPU: evaluate it, adapt it, evaluate it again.

    Starts from the shipped recipe 'demo'. The same command again goes on where it stopped.
    """

    run: str = field(default="runs/demo", metadata=also("out"))
    """Run folder."""
    fresh: bool = False
    """Begin anew: what is in the run folder is replaced."""
    seed: int | None = None
    """Of everything random, in place of adapt.seed and evaluate.seed; not negative."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1 or mps."""
    adapt: AdaptSettings = field(default_factory=AdaptSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)


COMMAND = Command(
    name="demo",
    options=DemoOptions,
    base="demo",
    examples=("zsrobust demo", "zsrobust demo --evaluate.limit 1000 --run runs/long-demo"),
)


def run(options: DemoOptions) -> None:
    """Hands over to :func:`zsrobust.demo.demo`."""
    check_steps(options.evaluate.steps, options.evaluate.attacks, DEFAULT_ATTACK, "--evaluate.attacks")
    from zsrobust.demo import ADAPTED, demo

    folder = Path(options.run).expanduser()
    adapt, evaluate = asdict(options.adapt), asdict(options.evaluate)
    if options.seed is not None:
        adapt["seed"], evaluate["seed"] = options.seed, [options.seed]
    adapt["device"] = evaluate["device"] = options.device
    evaluate["config"] = dump(options, "demo")
    adapt["config"] = dump(AdaptOptions(**adapt, run=str(folder / ADAPTED)), "adapt")
    try:
        demo(run=folder, fresh=options.fresh, adapt=adapt, evaluate=evaluate)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on where it stopped") from None
