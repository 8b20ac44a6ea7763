"""``zsrobust interpolate``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zsrobust.cli.command import WHOLE, Command, also
from zsrobust.errors import ConfigError


@dataclass(kw_only=True)
class InterpolateOptions:
    """Mix a model with what it became: (1 - alpha) of the original's weights and alpha of the adapted one's.

    MODELs are names (see 'zsrobust ls models'), folders (of a model, or a run of 'zsrobust adapt') or hub ids, with the
    same architecture and the same text tower. Only the visual tower and its pixel or token prompts are mixed.
    """

    models: list[str] = field(default_factory=list, metadata=also("model") | WHOLE)
    """The original and the adapted model, in this order; also written without --models."""
    alpha: list[str] = field(default_factory=list, metadata=also("alphas"))
    """How far to go, from 0 (the original) to 1 (the adapted model); several, a,b, are a frontier."""
    out: str | None = None
    """Folder to write: with one alpha the model itself, with several OUT/alpha-0.5 and so on."""


COMMAND = Command(
    name="interpolate",
    options=InterpolateOptions,
    usage="ORIGINAL ADAPTED --out=FOLDER --alpha A[,B,...]",
    positional="models",
    examples=(
        "zsrobust interpolate tiny runs/mine --alpha 0.5 --out half",
        "zsrobust interpolate tiny runs/mine --alpha 0.25,0.5,0.75 --out frontier",
    ),
)


def run(options: InterpolateOptions) -> None:
    """Mixes, saves, and says how to measure the frontier."""
    if len(options.models) != 2:
        raise ConfigError(f"two models are mixed, not {len(options.models)}: zsrobust interpolate {COMMAND.usage}")
    if not options.alpha:
        raise ConfigError("no alpha given: --alpha 0.5, or several: --alpha 0.25,0.5,0.75")
    if options.out is None:
        raise ConfigError("no folder given: --out FOLDER")
    from zsrobust.interpolation import interpolate
    from zsrobust.jobs import save
    from zsrobust.models import load_model, what_was_found

    places = _places([_number(text) for text in options.alpha], Path(options.out).expanduser())
    _keep_apart(options.models, list(places.values()))
    original, adapted = (load_model(model, device="cpu") for model in options.models)
    for told in filter(None, map(what_was_found, (original, adapted))):
        print(told)
    print(f"Mix    (1 - alpha) {original.name} + alpha {adapted.name}")
    for alpha, folder in places.items():
        mixed = interpolate(original, adapted, alpha)
        _keep_another(folder, mixed.provenance)
        save(mixed, folder)
        print(f"Model  {folder}")
    ends = [*([] if 0 in places else options.models[:1]), *map(str, places.values())]
    ends += [] if 1 in places else options.models[1:]
    print("Next   the frontier, clean against robust accuracy, one row a model and task:")
    print(f"       zsrobust evaluate {shlex.join(ends)} --tasks A,B --threat {_threat(adapted.provenance)}")


def _threat(provenance: Mapping[str, object]) -> str:
    """The one that the model was adapted to."""
    adaptation = provenance.get("adaptation")
    told = adaptation.get("threat") if isinstance(adaptation, Mapping) else None
    return told if isinstance(told, str) else "linf:1/255:native"


def _number(text: str) -> float:
    from zsrobust.interpolation import checked_alpha

    try:
        return checked_alpha(float(text))
    except ValueError:
        return checked_alpha(text)  # type: ignore[arg-type]  # says what is allowed


def _places(alphas: Sequence[float], out: Path) -> dict[float, Path]:
    """Where the model of each alpha goes."""
    from zsrobust.interpolation import shown

    if len(alphas) == 1:
        return {alphas[0]: out}
    if (out / "config.json").exists():
        raise ConfigError(f"'{out}' holds a model; several alphas need a folder of their own")
    places = {alpha: out / f"alpha-{shown(alpha)}" for alpha in alphas}
    if len(set(places.values())) < len(alphas):
        raise ConfigError(f"the same alpha twice: {', '.join(map(shown, alphas))}")
    return places


def _keep_another(place: Path, provenance: Mapping[str, object]) -> None:
    """Writing the same mixture again is no loss; in place of another model it would be."""
    from zsrobust.encoders.preprocessing import read_json
    from zsrobust.encoders.saving import STORY

    if (place / STORY).is_file() and _what(read_json(place / STORY)) != _what(provenance):
        raise ConfigError(f"'{place}' already holds another model; remove it, or write to another folder")


def _what(provenance: Mapping[str, object]) -> list[object]:
    """Alpha, and what was mixed."""
    told = provenance.get("interpolation")
    if not isinstance(told, Mapping):
        return []
    return [told["alpha"], *(told[end]["fingerprint"] for end in ("original", "adapted"))]


def _keep_apart(models: Sequence[str], places: Sequence[Path]) -> None:
    """Saving replaces an earlier model at once: it must not be one of those that are mixed."""
    from zsrobust.models import MODEL

    given = {
        path.resolve() for model in models for path in (Path(model).expanduser(), Path(model).expanduser() / MODEL)
    }
    for place in places:
        if place.resolve() in given:
            raise ConfigError(f"'{place}' is one of the models to be mixed; write to another folder")
