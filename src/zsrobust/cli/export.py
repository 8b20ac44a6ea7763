"""``zsrobust export``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.errors import ConfigError


@dataclass(kw_only=True)
class ExportOptions:
    """Write a model in the format that another program loads, with a model card that says what was measured.

    hf is for transformers, open_clip for open_clip (local-dir: and hf-hub:), visual the bare visual tower for
    LLaVA-like models and for RobustVLM's scripts, onnx the visual tower with its preprocessing for onnxruntime.
    """

    model: str | None = None
    """Model: a name (see 'zsrobust ls models'), a folder (of a model, or a run of 'zsrobust adapt'), a file or a hub
    id; also written without --model."""
    format: Literal["hf", "open_clip", "visual", "onnx"] | None = None
    """hf, open_clip, visual or onnx."""
    out: str | None = None
    """Folder to write: new, empty, or an earlier export of the same model in the same format."""
    results: list[str] = field(default_factory=list, metadata=also("result") | WHOLE)
    """Run folder of 'zsrobust evaluate' with this model, for the card; repeat it for several."""
    classes: list[str] = field(default_factory=list)
    """For onnx: class names of a text head, "cat,dog"; with one task, in place of the task's own."""
    template: list[str] = field(default_factory=list, metadata=also("templates") | WHOLE)
    """For onnx: prompt template with one {} for the class name; repeat it for several. Empty: the task's own, or
    "This is a photo of a {}"."""
    tasks: list[str] = field(default_factory=list, metadata=also("task"))
    """For onnx: a text head for each of these tasks (see 'zsrobust ls tasks')."""
    data: str | None = None
    """Folder in which tasks look for their local data. null: $ZSROBUST_DATA, else ./data."""
    push_to_hub: str | None = None
    """OWNER/NAME of a model repository of the Hugging Face hub to push the folder to, made if it does not exist. The
    token is that of 'hf auth login', or HF_TOKEN."""
    revision: str | None = None
    """Branch to push to. null: the default branch."""
    visibility: Literal["private", "public"] = "private"
    """Of a repository that is made now: private or public. One that exists stays as it is."""


COMMAND = Command(
    name="export",
    options=ExportOptions,
    usage="MODEL --format=FORMAT --out=FOLDER [--OPTION VALUE ...]",
    positional="model",
    examples=(
        "zsrobust export runs/mine --format open_clip --out mine-open-clip --results runs/mine-eval",
        'zsrobust export runs/mine --format onnx --out mine-onnx --classes "cat,dog"',
        "zsrobust export runs/mine --format hf --out mine --push-to-hub me/mine",
    ),
)


def run(options: ExportOptions) -> None:
    """Exports, says what is where, and pushes if asked to."""
    if options.model is None or options.format is None or options.out is None:
        raise ConfigError(f"a model, --format and --out are needed: zsrobust export {COMMAND.usage}")
    if options.revision is not None and options.push_to_hub is None:
        raise ConfigError(f"--revision {options.revision} is for --push-to-hub OWNER/NAME, which was not given")
    if options.data is not None and not options.tasks:
        raise ConfigError("--data is for --tasks, which was not given")
    if options.visibility != "private" and options.push_to_hub is None:
        raise ConfigError(f"--visibility {options.visibility} is for --push-to-hub OWNER/NAME, which was not given")
    if options.format != "onnx" and (options.classes or options.template or options.tasks):
        raise ConfigError(f"--classes, --template and --tasks are for --format onnx; {options.format} has no text head")
    from zsrobust.export import export
    from zsrobust.export.heads import heads
    from zsrobust.export.publish import check, publish
    from zsrobust.models import load_model, what_was_found

    if options.push_to_hub is not None:
        check(options.push_to_hub)
    encoder = load_model(options.model, device="cpu")
    if found := what_was_found(encoder):
        print(found)
    texts = heads(encoder, classes=options.classes, templates=options.template, tasks=options.tasks, data=options.data)
    done = export(
        encoder, options.out, format=options.format, heads=texts, results=options.results, repo=options.push_to_hub
    )
    told = [("Model", encoder.name), *_facts(done.facts), ("Card", _card(done.results))]
    for name, value in [*told, ("Wrote", f"{done.folder}: {', '.join(done.files)}")]:
        print(f"{name:<10} {value}")
    if options.push_to_hub is not None:
        address = publish(done.folder, options.push_to_hub, revision=options.revision, visibility=options.visibility)
        print(f"Pushed     {address}")


def _facts(facts: Any) -> list[tuple[str, str]]:
    found = []
    if "activation" in facts:
        found.append(("Activation", facts["activation"]))
    if "input" in facts:
        found.append(("Input", facts["input"]))
    if "largest_difference_from_torch" in facts:
        parts = ", ".join(f"{name} {value:.1e}" for name, value in facts["largest_difference_from_torch"].items())
        found.append(("Checked", f"onnxruntime against torch, largest difference: {parts}"))
    for name, classes in facts.get("text_heads", {}).items():
        found.append(("Head", f"text_head-{name}.npz, {len(classes)} classes"))
    return found


def _card(rows: int) -> str:
    from zsrobust.report.words import plural

    if not rows:
        return "README.md, without evaluation results (--results RUN adds them)"
    return f"README.md, with {plural(rows, 'row')} of evaluation results"
