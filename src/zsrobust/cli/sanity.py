"""``zsrobust sanity``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from zsrobust.cli.command import Command, also
from zsrobust.cli.outputs import file_to_write
from zsrobust.errors import ConfigError


@dataclass(kw_only=True)
class SanityOptions:
    """Could a robust accuracy of this model be a lie? Looks for the reasons, in minutes, on a few images.

    Masked, missing or wrong gradients, randomness, half precision, training mode, loops inside the model, doubled
    preprocessing, a budget in the wrong unit … With a reason for doubt the exit status is 1.
    """

    model: str | None = None
    """Model: a name (see 'zsrobust ls models'), a folder (of a model, or a run of 'zsrobust adapt'), a hub id, or a
    checkpoint file with its options (file.pt:base=MODEL); MODEL+ttc is behind a defence. Also written without --model.
    """
    task: str | None = field(default=None, metadata=also("tasks"))
    """Task to take images from (see 'zsrobust ls tasks')."""
    threat: str = "linf:1/255:native"
    """The budget to be evaluated: NORM:EPS[:SPACE] with linf or l2, EPS in pixel range 0..1 (4/255), native or
    model."""
    limit: int = 32
    """Images, 1 to 64."""
    seed: int = 0
    """Of the images and of everything random; not negative."""
    transfer: list[str] = field(default_factory=list)
    """Other models, whose attacks are tried on this one too."""
    split: str = "test"
    """Split of the task: test, validation or train."""
    data: str | None = None
    """Folder in which tasks look for their local data. null: $ZSROBUST_DATA, else ./data."""
    out: str | None = None
    """JSON file for what was found, with the evidence. null: none."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1 or mps."""


COMMAND = Command(
    name="sanity",
    options=SanityOptions,
    usage="MODEL --task T [--OPTION VALUE ...]",
    positional="model",
    examples=(
        "zsrobust sanity tiny --task world-shape --threat linf:4/255",
        "zsrobust sanity runs/mine --task digits --transfer tiny --out sanity.json",
    ),
)


def run(options: SanityOptions) -> int:
    """Looks, and tells what was found."""
    if options.model is None:
        raise ConfigError("no model given: zsrobust sanity MODEL --task T (for example: tiny)")
    if options.task is None:
        raise ConfigError("no task given: --task T ('zsrobust ls tasks' lists them)")
    if options.seed < 0:
        raise ConfigError(f"--seed {options.seed} must not be negative")
    out = None if options.out is None else file_to_write("--out", options.out)
    from tqdm import tqdm

    from zsrobust.api import resolve_tasks
    from zsrobust.check_up import CHECKS, sanity
    from zsrobust.models import load_model, what_was_found
    from zsrobust.run_folder import write_atomically

    tasks = resolve_tasks([options.task], split=options.split, data=options.data)
    if len(tasks) > 1:
        raise ConfigError(f"--task {options.task} is {len(tasks)} tasks; sanity looks at one: {tasks[0].name}, ...")
    (task,) = tasks
    encoder = load_model(options.model, device=options.device)
    if told := what_was_found(encoder):
        print(told)
    others = [load_model(name, device=options.device) for name in options.transfer]
    with tqdm(total=CHECKS, disable=None, leave=False, unit="check") as bar:

        def progress(what: str) -> None:
            bar.set_description_str(what)
            bar.update()

        found = sanity(
            encoder, task, options.threat, limit=options.limit, seed=options.seed, others=others, progress=progress
        )
    if out is not None:
        text = json.dumps(found.to_json(), indent=1, ensure_ascii=False)
        write_atomically(out, text.encode())
    _tell(found)
    if out is not None:
        print(f"Written  {out}")
    return int(found.in_doubt)


def _tell(found: object) -> None:
    from zsrobust.check_up import Checkup

    assert isinstance(found, Checkup)
    print(f"Model    {found.model}")
    print(f"Task     {found.task}, {found.n} images, within {found.threat.describe()}")
    after = "no gradient to attack with" if found.standing is None else f"{found.standing} after the check-up's attacks"
    print(f"Right    {found.clean} of {found.n} before any attack, {after}")
    print()
    if not found.in_doubt:
        print(f"Verdict  no reason for doubt ({found.checks} causes looked for)")
        print("         A robust accuracy of this model is still an upper bound: a stronger attack may exist.")
        return
    reasons = "one reason" if len(found.alarms) == 1 else f"{len(found.alarms)} reasons"
    print(f"Verdict  IN DOUBT, for {reasons}")
    for alarm in found.alarms:
        print()
        print(f"{alarm.strength:<8} {alarm.name}: {alarm.text}")
        for name, value in alarm.evidence.items():
            shown = f"{value:.4g}" if isinstance(value, float) else value
            print(f"         {name.replace('_', ' ')} {shown}")
    print()
    print("docs/attacking-your-own-defence.md says what a model may declare, so that attacks can adapt to it.")
