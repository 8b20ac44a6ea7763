"""``zsrobust study``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.cli.outputs import file_to_write
from zsrobust.errors import ConfigError


@dataclass(kw_only=True)
class StudyOptions:
    """Run a study: adapt and evaluate every cell of a grid, and draw what comes out, with intervals.

    RECIPE is the name of a shipped study or a YAML file; several share what they have in common. First comes the plan
    with an estimate of the time. The same command again goes on where it stopped, also after a power cut.
    """

    recipes: list[str] = field(default_factory=list, metadata=also("recipe", "studies"))
    """Studies, also written without --recipes."""
    run: str = field(default="runs/studies", metadata=also("out"))
    """Folder for the studies: RUN/NAME holds cells, tables and figures of each, RUN/index.html shows all."""
    store: str = "runs/store"
    """Folder for adapted models and evaluations, which studies share."""
    jobs: int | None = None
    """Worker processes. null: one on a GPU, else one a core up to 4. A worker's threads, and so the last bits of
    trained weights, depend on it: go on with the same number."""
    seeds: list[int] = field(default_factory=list, metadata=also("seed"))
    """Only these seeds. Empty: the recipe's. Results keep those of earlier calls."""
    only: list[str] = field(default_factory=list, metadata=WHOLE)
    """Only cells with this level of an axis, for example --only loss=TeCoA; repeat it for another axis."""
    dry_run: bool = False
    """Only print the plan and the estimate."""
    document: str | None = None
    """Also write what all studies in RUN say about the paper's claims as a markdown file."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1 or mps."""
    adapt: dict[str, Any] = field(default_factory=dict)
    """Other options of adapt than the recipe's shared ones, for example --adapt.limit 300; not what a level sets."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Likewise of evaluate, for example --evaluate.limit 50."""


COMMAND = Command(
    name="study",
    options=StudyOptions,
    usage="RECIPE... [--OPTION VALUE ...]",
    positional="recipes",
    examples=(
        "zsrobust study main-table --dry_run",
        "zsrobust study main-table --seeds 0 --only loss=TeCoA",
        "zsrobust study my-study.yaml --jobs 2 --run runs/mine",
    ),
)


def run(options: StudyOptions) -> int:
    """Runs the studies, says what failed and where the results are."""
    if not options.recipes:
        raise ConfigError("no study given: zsrobust study RECIPE ('zsrobust ls studies' lists the shipped ones)")
    only = _levels(options.only)
    document = None if options.document is None else file_to_write("--document", options.document)
    from zsrobust.study.overrides import check_heeded
    from zsrobust.study.recipe import read
    from zsrobust.study.runner import study

    recipes = [read(spec, adapt=options.adapt, evaluate=options.evaluate) for spec in options.recipes]
    for recipe in recipes:
        check_heeded(recipe, options.adapt, recipe.selection(only, "--only"))
    names = [recipe.name for recipe in recipes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"study '{twice[0]}' is given twice")
    folder, store = Path(options.run).expanduser(), Path(options.store).expanduser()
    try:
        failures = study(
            recipes, run=folder, store=store, jobs=options.jobs, seeds=options.seeds, only=only,
            device=options.device, dry_run=options.dry_run, overrides=options.adapt, say=print,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what is finished is kept; the same command goes on where it stopped") from None
    if options.dry_run:
        return 0
    for failure in failures:
        print(f"FAILED   {failure.study}: {failure.what}: {failure.reason}")
    _results(folder, names, document)
    return 1 if failures else 0


def _levels(written: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in written:
        axis, equals, level = (part.strip() for part in one.partition("="))
        if not equals:
            raise ConfigError(f"--only {one} is not of the form AXIS=LEVEL")
        if axis in found:
            raise ConfigError(
                f"--only names the axis '{axis}' twice ({found[axis]}, {level}): a command takes one level of an axis; "
                "run it once for each, what studies share is computed once"
            )
        found[axis] = level
    return found


def _results(folder: Path, names: list[str], out: Path | None) -> None:
    from zsrobust.study import document, page

    for name in names:
        document.write(folder / name)
        print(f"Results  {folder / name}")
    page.write(folder)
    print(f"Page     {folder / 'index.html'}")
    if out is not None:
        document.study_md(folder, out)
        print(f"Document {out}")
