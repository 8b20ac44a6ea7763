"""``zsrobust retrieval``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.cli.naming import run_folder
from zsrobust.cli.parsing import dump
from zsrobust.errors import ConfigError


@dataclass(kw_only=True)
class RetrievalOptions:
    """Image→text and text→image retrieval on captioned images, clean and under attack.

    R@1, R@5 and R@10 with intervals, for each MODEL, and its differences from the first one. The attack changes images
    only, each alone, so that their own captions fall behind the others. The same command again goes on where it
    stopped.
    """

    models: list[str] = field(default_factory=list, metadata=also("model") | WHOLE)
    """Models, also written without --models: names (see 'zsrobust ls models'), folders or hub ids."""
    captions: str | None = None
    """Captioned images: world (the rendered world's own), a .parquet file (an image column and caption or captions), a
    .tar file (KEY.jpg with KEY.txt or KEY.json), or a folder of either, such as clip-benchmark's retrieval sets."""
    split: str = "test"
    """Split of the set: test, validation or train; a set that is not divided is all test."""
    limit: int | None = None
    """At most so many images, drawn with the seed; at least 1. null: all. A smaller gallery is an easier one."""
    attacks: list[str] = field(default_factory=lambda: ["pgd:20"], metadata=also("attack"))
    """pgd, cw, fgsm, apgd:ce or apgd:margin, as NAME[:STEPS][:option=value]; a query must survive all. clean: none."""
    threat: str = "linf:2/255:native"
    """What the adversary may change in each image: NORM:EPS[:SPACE] with linf or l2, EPS in pixel range 0..1 (2/255),
    and native (the set's own resolution) or model (the model's input size)."""
    seed: int = 0
    """Of the attacks' random numbers and of the images that --limit keeps; not negative."""
    rows: int = 32
    """Rows of every forward pass; at least 1. Part of the result, because arithmetic rounds by shape."""
    run: str | None = field(default=None, metadata=also("out"))
    """Run folder: records, summary and report. null: one in runs/, named after models and set."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1 or mps."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernels: sdpa, or eager."""


COMMAND = Command(
    name="retrieval",
    options=RetrievalOptions,
    usage="MODEL... --captions SET [--OPTION VALUE ...]",
    positional="models",
    examples=(
        "zsrobust retrieval tiny --captions world --limit 100",
        "zsrobust retrieval tiny runs/mine --captions flickr.parquet --threat linf:4/255",
        "zsrobust retrieval openai/clip-vit-base-patch32 --captions wds_mscoco_captions --attacks apgd:ce",
    ),
)


def run(options: RetrievalOptions) -> None:
    """Evaluates, prints the tables, and says where the report is."""
    if not options.models:
        raise ConfigError(
            "no model given: zsrobust retrieval MODEL --captions SET (for example: tiny --captions world)"
        )
    if options.captions is None:
        raise ConfigError("no captions given: --captions world, a .parquet file, a .tar file, or a folder of either")
    if "clean" in options.attacks and len(options.attacks) > 1:
        raise ConfigError("clean is always measured; leave it out of --attacks, or let it stand alone for no attack")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"limit = {options.limit} must be at least 1")
    from zsrobust.models import load_model, what_was_found
    from zsrobust.retrieval.evaluate import aimed, evaluate_retrieval
    from zsrobust.retrieval.sources import open_captions
    from zsrobust.retrieval.words import terminal
    from zsrobust.run_folder import write_atomically

    attacks = [name for name in options.attacks if name != "clean"]
    aimed(attacks, options.threat, seed=options.seed, rows=options.rows)  # before captions are read and models loaded
    captions = open_captions(options.captions, split=options.split).take(options.limit, seed=options.seed)
    models = [load_model(model, device=options.device, attention=options.attention) for model in options.models]
    for line in filter(None, map(what_was_found, models)):
        print(line)
    decides = {name: value for name, value in asdict(options).items() if name not in ("run", "device")}
    folder = run_folder(options.run, ["retrieval", *options.models[:2], options.captions], decides)
    if (folder / "found.jsonl").exists():
        print(f"Going on with {folder}: what is there already is not computed again.")
    try:
        summary = evaluate_retrieval(
            models, captions, run=folder, attacks=attacks, threat=options.threat, seed=options.seed, rows=options.rows,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on where it stopped") from None
    write_atomically(folder / "config.yaml", dump(options, "retrieval").encode())
    terminal(summary)
    print(f"Summary  {folder / 'summary.json'}")
    print(f"Report   {folder / 'report.md'}")
