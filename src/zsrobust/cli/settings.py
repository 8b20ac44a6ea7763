"""Options that more than one command has: how to adapt, and how to evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from zsrobust.cli.command import WHOLE, also
from zsrobust.errors import ConfigError

DEFAULT_ATTACK = "pgd:20"


@dataclass(kw_only=True)
class AdaptSettings:
    """How to adapt."""

    model: str = "tiny"
    """Model to adapt: a name (see 'zsrobust ls models'), a folder, a hub id (owner/name), or a checkpoint file
    with its options (file.pt:base=MODEL)."""
    task: str = "world-compositions"
    """Task to adapt on: a name (see 'zsrobust ls tasks'), a TOML file, or a folder with train/, and in it one folder of
    images a class (without train/: --split test)."""
    split: str = "train"
    """Split of the task: train, validation or test."""
    classes: list[str] = field(default_factory=list)
    """Names to use in the prompts: one for each class in order (a folder's classes are sorted), or FOLDER=NAME for
    some. Empty: the task's own."""
    template: list[str] = field(default_factory=list, metadata=also("templates") | WHOLE)
    """Prompt template with one {} for the class name, in place of the task's; repeat it for several. A word without
    {} is the task's own set of templates, such as openai."""
    select: list[str] = field(default_factory=list)
    """Only these classes, by name. Empty: all."""
    limit: int | None = None
    """At most so many images, stratified by class; at least 1. null: all."""
    data: str | None = None
    """Folder in which tasks look for their local data. null: $ZSROBUST_DATA, else ./data."""
    threat: str = "linf:1/255:native"
    """What the training adversary may change: NORM:EPS[:SPACE] with linf or l2, EPS in pixel range 0..1 (4/255),
    and native (the task's own resolution) or model (the model's input size)."""
    steps: int = 2
    """Steps of the training adversary for each image; at least 1."""
    step_size: str | float | None = None
    """Length of such a step in pixel range 0..1, for example 1/255. null: EPS itself, as in the TeCoA paper."""
    method: str = "tecoa"
    """Method (see 'zsrobust ls methods')."""
    method_options: dict[str, Any] = field(default_factory=dict)
    """The method's own options, for example --method_options.scale 20."""
    tuning: str = "full"
    """Way of adapting, what is trained (see 'zsrobust ls tunings'): full is the whole visual tower."""
    tuning_options: dict[str, Any] = field(default_factory=dict)
    """The way's own options, for example --tuning_options.count 16."""
    labels: Literal["true", "hard", "soft", "none"] = "true"
    """true; hard or soft: pseudo-labels, the unadapted model's predictions on the clean images; none: for methods that
    read no labels."""
    held_out: int | None = None
    """Score the method's own classifier at the end on so many images of the task's validation split. null: do
    not."""
    epochs: int = 10
    """Passes over the images; at least 1."""
    batch_size: int | Literal["auto"] = 256
    """Images in an optimizer step, over all processes; at least 1. auto: the largest power of two that fits into
    memory."""
    lr: float = 1e-5
    """Peak learning rate; above 0."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd (momentum 0.9) or adamw."""
    weight_decay: float = 0.0
    """Weight decay as the optimizer defines it; not negative."""
    warmup: float = 0.02
    """Fraction of all steps, 0 to below 1, in which the learning rate rises; then it falls along a cosine to 0."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Arithmetic of the passes: float32, bf16 (faster where the processor has it; weights stay float32), or fp16 (CUDA
    only, for GPUs without bf16; the loss is scaled)."""
    attack_precision: Literal["same", "bfloat16"] = "same"
    """Arithmetic of the adversary's passes: the same, or a bfloat16 copy of the tower (in evaluation, an attack step on
    CPUs is 1.35 x as fast that way as under bf16's autocast; the one adaptation measured was slower, 0.88 x)."""
    micro_batch: int | None = None
    """Images passed at once: less memory, the same step up to rounding. null: all of this process."""
    checkpoint_activations: bool = False
    """Compute the learner's activations a second time instead of keeping them: less memory, more time."""
    seed: int = 0
    """Of data order and random starts; not negative."""
    checkpoint_every: int = 500
    """Steps between checkpoints; at least 1."""
    log_every: int = 10
    """Steps between lines of metrics; at least 1."""
    attention: Literal["auto", "sdpa", "eager"] = "sdpa"
    """Attention kernels: sdpa, eager (faster in bf16 on many CPUs), or auto: the faster one, found by a short
    measurement. Part of the result."""
    compile: bool = False
    """Compile the passes of the visual tower (torch.compile; minutes at the start, made for GPUs). Part of the
    result."""


@dataclass(kw_only=True)
class EvaluateSettings:
    """How to evaluate."""

    tasks: list[str] = field(default_factory=list, metadata=also("task"))
    """Tasks: names (see 'zsrobust ls tasks') or a suite such as paper15 (see 'zsrobust ls suites'), TOML files, a
    folder of TOML files, or folders with one folder of images a class; a,b is two. digits@noise-3 is a task under a
    natural corruption at strength 3 of 5."""
    attacks: list[str] = field(default_factory=lambda: [DEFAULT_ATTACK], metadata=also("attack"))
    """Attacks (see 'zsrobust ls attacks'), each NAME[:WORD][:option=value]; what counts as robust survives all."""
    mode: Literal["exact", "fast", "float32"] = "exact"
    """exact (every attack in float32; in the standard suites a bfloat16 scout goes ahead, to save time), fast
    (bfloat16; a break counts only if float32 confirms it) or float32 (no bfloat16 at all)."""
    threat: list[str] = field(default_factory=lambda: ["linf:1/255:native"], metadata=also("threats"))
    """What the adversary may change: NORM:EPS[:SPACE] with linf or l2, EPS in pixel range 0..1 (4/255), or patch, EPS a
    part of the area (0.05); and native (the task's own resolution) or model (the model's input size)."""
    eps: list[str | int | float] = field(default_factory=list)
    """Several EPS in pixel range 0..1 in place of the threat's, for a curve: 0,1/255,2/255,4/255."""
    space: Literal["native", "model"] | None = None
    """native or model, in place of the threat's. null: as the threat says."""
    limit: int | None = None
    """At most so many images of each task, stratified by class; at least 1. null: all. With a larger one and
    the same --run, what is there stays and the rest is added."""
    seed: list[int] = field(default_factory=lambda: [0], metadata=also("seeds"))
    """Of the attacks' random numbers, and (the first) of the images that --limit keeps; several: each is run."""
    split: str = "test"
    """Split of the tasks: test, validation or train."""
    steps: int | None = None
    """Steps of the attacks that take steps and are not written with a number. null: each attack's default."""
    step_size: str | float | None = None
    """Length of an attack's step in pixel range 0..1, for example 1/255. null: each attack's default."""
    restarts: int | None = None
    """Random starts of the attacks that have some. null: each attack's default."""
    targets: int | None = None
    """Classes that targeted attacks push towards, one after the other. null: each attack's default."""
    queries: int | None = None
    """Queries of attacks without gradients. null: each attack's default."""
    batch_size: int = 256
    """Images in flight; at least 1. Changes speed and memory, never a verdict; of a random model also what attacks
    find."""
    rows: int | Literal["auto"] = 32
    """Rows of every forward pass; at least 1; or auto: as many as this device needs to be fast, found by measurement.
    Part of the result, because arithmetic rounds by shape; decides how much memory a pass takes."""
    data: str | None = None
    """Folder in which tasks look for their local data. null: $ZSROBUST_DATA, else ./data."""
    classes: list[str] = field(default_factory=list)
    """Names to use in the prompts, for one task: one for each class in order (a folder's classes are sorted), or
    FOLDER=NAME for some. Empty: the tasks' own."""
    template: list[str] = field(default_factory=list, metadata=also("templates") | WHOLE)
    """Prompt template with one {} for the class name, in place of the tasks'; repeat it for several. A word without
    {} is a task's own set of templates, such as openai."""
    select: list[str] = field(default_factory=list)
    """Only these classes, by name. Empty: all."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """At an unreadable image: stop, or skip (it is counted and listed in the report)."""
    attention: Literal["auto", "sdpa", "eager"] = "sdpa"
    """Attention kernels: sdpa, eager, or auto: the faster one, found by a short measurement. Part of the result."""
    compile: bool = False
    """Compile the bfloat16 passes (torch.compile; minutes at the start, made for GPUs). Float32 has the last word and
    is never compiled. Part of the result."""


def check_steps(steps: int | None, attacks: Sequence[str], default: str, option: str) -> None:
    """Refuses ``--steps`` beside the default attack, which says its own, with what to write.

    Raises:
        ConfigError: ``attacks`` are only the ``default``; ``option`` is what names another.
    """
    if steps is not None and list(attacks) == [default]:
        name = default.partition(":")[0]
        raise ConfigError(f"steps {steps}: the attack {default} has its own in its name; write {option} {name}:{steps}")
