"""``zsrobust attack``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.cli.outputs import file_to_write
from zsrobust.cli.settings import check_steps
from zsrobust.errors import ConfigError


@dataclass(kw_only=True)
class AttackOptions:
    """Attack one image: can a change too small to see make the model say something else?

    Writes the adversarial image, and beside it the change itself, magnified.
    """

    image: str | None = None
    """Image file; also written without --image."""
    labels: list[str] = field(default_factory=list, metadata=also("classes"))
    """Two or more names that the model chooses from: "a cat, a dog"."""
    label: str | None = None
    """The true one. null: what the model says of the unchanged image."""
    target: str | None = None
    """The one that the model is to say. null: any but the true one."""
    template: list[str] = field(default_factory=lambda: ["This is a photo of a {}"], metadata=also("templates") | WHOLE)
    """Prompt template with one {} for the name; repeat it for several. "{}" uses the names as they are."""
    model: str = "tiny"
    """Model: a name (see 'zsrobust ls models'), a folder (of a model, or a run of 'zsrobust adapt') or a hub id."""
    threat: str = "linf:4/255:native"
    """What may change: NORM:EPS[:SPACE] with linf or l2, EPS in pixel range 0..1 (4/255), or patch (with --attack
    patch), EPS a part of the area (0.05); and native (the image's own size if it is square and at most 224, else a 224
    crop) or model (the model's input size)."""
    attack: str = "pgd:50"
    """Attack, NAME[:WORD][:option=value] (see 'zsrobust ls attacks'). A suite's attacks run until one succeeds."""
    mode: Literal["exact", "fast", "float32"] = "exact"
    """exact (every attack in float32; in the standard suites a bfloat16 scout goes ahead, to save time), fast
    (bfloat16; a break counts only if float32 confirms it) or float32 (no bfloat16 at all)."""
    steps: int | None = None
    """Steps, if the attack takes steps and is not written with a number. null: its default."""
    step_size: str | float | None = None
    """Length of a step in pixel range 0..1, for example 1/255. null: the attack's default."""
    restarts: int | None = None
    """Random starts. null: the attack's default."""
    targets: int | None = None
    """Classes that a targeted attack pushes towards, one after the other. null: its default."""
    queries: int | None = None
    """Queries of an attack without gradients. null: its default."""
    seed: int = 0
    """Of the attack's random numbers; not negative."""
    out: str = "adversarial.png"
    """PNG file for the adversarial image; NAME-perturbation.png goes beside it."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, cuda:1 or mps."""


COMMAND = Command(
    name="attack",
    options=AttackOptions,
    usage='IMAGE --labels "a cat, a dog" [--OPTION VALUE ...]',
    positional="image",
    examples=(
        'zsrobust attack cat.jpg --labels "cat, dog" --threat linf:2/255',
        'zsrobust attack cat.jpg --labels "cat, dog, car" --label cat --target car --out car.png',
    ),
)


def run(options: AttackOptions) -> None:
    """Attacks, writes two files, and tells what happened."""
    if options.image is None:
        raise ConfigError('no image given: zsrobust attack IMAGE --labels "a cat, a dog"')
    if not options.out.lower().endswith(".png"):
        raise ConfigError(f"--out {options.out} must end in .png: other formats would change the pixels again")
    if options.seed < 0:
        raise ConfigError(f"--seed {options.seed} must not be negative")
    image = Path(options.image).expanduser()
    out, beside = _places(options.out, image)
    check_steps(options.steps, [options.attack], AttackOptions.attack, "--attack")
    from zsrobust.api import resolve_attacks
    from zsrobust.cli.attack_words import tell, write
    from zsrobust.models import load_model, what_was_found
    from zsrobust.one_image import attack_image
    from zsrobust.threat import Threat, parse_eps

    step_size = None if options.step_size is None else parse_eps(options.step_size, "step_size")
    attacks = resolve_attacks(
        options.attack,
        Threat.parse(options.threat),
        mode=options.mode,
        steps=options.steps,
        step_size=step_size,
        restarts=options.restarts,
        targets=options.targets,
        queries=options.queries,
    )
    if len(attacks) > 1:
        raise ConfigError(f"one image, one attack: --attack '{options.attack}' is {len(attacks)}")
    attack = attacks[0]
    encoder = load_model(options.model, device=options.device)
    if told := what_was_found(encoder):
        print(told)
    found = attack_image(
        image,
        encoder,
        options.labels,
        attack,
        label=options.label,
        target=options.target,
        templates=options.template,
        seed=options.seed,
        source=partial(load_model, device=options.device),
    )
    files = write(found, out, beside)
    print(f"Image    {options.image}, {found.image.shape[0]}x{found.image.shape[1]} pixels ({found.geometry})")
    print(f"Model    {encoder.name}")
    tell(found, attack, own_label=options.label is None)
    for file, words in files:
        print(f"Wrote    {file} ({words})")


def _places(given: str, image: Path) -> tuple[Path, Path]:
    """The two files to write: the adversarial image, and beside it the change.

    Raises:
        ConfigError: one of them cannot be written, or is the image itself, also by another name.
    """
    out = file_to_write("--out", given)
    places = out, out.with_name(f"{out.stem}-perturbation.png")
    for place in places:
        if place.exists() and image.exists() and place.samefile(image):
            raise ConfigError(f"--out {given} would overwrite the image itself ({place}); name another file")
    return places
