"""Models × a set of captioned images × attacks → a run folder with ranks, recalls and a report.

image→text   the query is the attacked image, the gallery all texts; any of the image's captions is right.
text→image   the query is a text, the gallery all images, each attacked alone and with the same perturbation as for
             image→text: it hides from its own captions (and comes closer to foreign ones).

The harness enforces the budget, computes the features of what an attack returned again, in float32 and in the canonical
shape, and takes the clean image instead wherever that is found later: not to attack is allowed too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from zsrobust.attacks import parse
from zsrobust.attacks.checks import enforce
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, ModelError, RunError
from zsrobust.evaluation import device_of, fingerprint_of, in_space
from zsrobust.passes import ROWS
from zsrobust.pixels import to_pixels
from zsrobust.randomness import Draws
from zsrobust.retrieval.attack import Climber, climber, search, units
from zsrobust.retrieval.captions import CaptionSet
from zsrobust.retrieval.ranks import ranks
from zsrobust.retrieval.records import CLEAN, Found, Key, Ledger, Ranked, read_records, to_lines
from zsrobust.retrieval.summary import Summary, summarise
from zsrobust.retrieval.words import markdown
from zsrobust.run_folder import changed, check_kind, versions, write_atomically, writing
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

FORMAT = "zsrobust.retrieval/1"
_SETTINGS = ("captions", "threat", "seed", "rows", "device")


def evaluate_retrieval(
    models: Sequence[Encoder],
    captions: CaptionSet,
    *,
    run: str | Path,
    attacks: Sequence[str] = ("pgd:20",),
    threat: str | Threat = "linf:2/255:native",
    seed: int = 0,
    rows: int = ROWS,
) -> Summary:
    """Evaluates models on one set into a run folder, going on where it stopped, and writes its report.

    Args:
        models: Each with another name; the others are compared with the first.
        captions: The set, after its limit.
        run: Folder for run.json, found.jsonl, records.jsonl, summary.json and report.md.
        attacks: Names; none: only clean.
        threat: What the adversary may change in each image.
        seed: Key of the attacks' random numbers.
        rows: Rows of one forward pass.

    Returns:
        Recalls with intervals, of these models and attacks.

    Raises:
        ConfigError: no model, two of one name, or an argument that :func:`aimed` refuses.
        ModelError: a model without texts, or features that are not finite.
        RunError: the run is another one's, or cannot be written; what is there is kept.
    """
    ball, climbers = aimed(attacks, threat, seed=seed, rows=rows)
    names = [model.name for model in models]
    if not names:
        raise ConfigError("no model to evaluate")
    _once("model", names)
    for model in models:
        if not callable(getattr(model, "encode_texts", None)):
            raise ModelError(f"model '{model.name}' has no text tower (encode_texts); retrieval needs one")
    folder, device = Path(run), device_of(models[0])
    settings = {
        "captions": captions.describe(), "threat": ball.describe(), "seed": seed, "rows": rows, "device": device.type,
    }  # fmt: skip
    check_kind(folder, "retrieval")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with closing(Ledger(folder / "found.jsonl")) as ledger:
        header = _header(folder, settings, begun=bool(ledger.found) or (folder / "records.jsonl").exists())
        for model in models:
            _declare(folder, header, "models", _about(model))
        for attack in climbers:
            _declare(folder, header, "attacks", attack.describe())
        total = len(models) * len(captions) * (1 + len(climbers))
        with tqdm(total=total, unit="image", disable=None, leave=False) as bar:
            for model in models:
                _one_model(folder, ledger, model, captions, climbers, settings, bar)
    summary = summarise(_asked(folder, names, climbers), header, [a.name for a in climbers], names)
    write_atomically(folder / "summary.json", json.dumps(summary.to_json(), indent=1, ensure_ascii=False).encode())
    write_atomically(folder / "report.md", markdown(summary).encode())
    return summary


def aimed(attacks: Sequence[str], threat: str | Threat, *, seed: int, rows: int) -> tuple[Threat, list[Climber]]:
    """Threat and attacks of :func:`evaluate_retrieval`, from its arguments; before there are models or captions.

    Raises:
        ConfigError: an attack that cannot be aimed at retrieval or is given twice, a threat that is none, a negative
            seed, or rows below 1.
    """
    for name, value, least in (("seed", seed, 0), ("rows", rows, 1)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")
    ball = threat if isinstance(threat, Threat) else Threat.parse(threat)
    climbers = [climber(parse(text, ball, mode="float32")) for text in attacks]
    _once("attack", [attack.name for attack in climbers])
    return ball, climbers


def _once(what: str, names: Sequence[str]) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{what} '{twice[0]}' is given more than once")


def _asked(folder: Path, names: Sequence[str], climbers: Sequence[Climber]) -> list[Ranked]:
    attacks = {CLEAN, *(attack.name for attack in climbers)}
    return [r for r in read_records(folder / "records.jsonl") if r.model in names and r.attack in attacks]


def _about(model: Encoder) -> dict[str, Any]:
    return {"name": model.name, "fingerprint": fingerprint_of(model), "provenance": dict(model.provenance)}


def _header(folder: Path, settings: dict[str, Any], *, begun: bool) -> dict[str, Any]:
    path = folder / "run.json"
    fresh: dict[str, Any] = {
        "format": FORMAT, "kind": "retrieval", "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(), **settings, "models": [], "attacks": [],
    }  # fmt: skip
    if not path.exists():
        return fresh
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        written = header.get("format")
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if written != FORMAT:
        raise RunError(f"{folder} holds another kind of run ({written!r}); name another folder")
    if not begun:
        return fresh
    for key in _SETTINGS:
        _same(folder, key, header.get(key), json.loads(json.dumps(settings[key])))
    return header


def _declare(folder: Path, header: dict[str, Any], section: str, item: dict[str, Any]) -> None:
    """Adds a model or attack to ``run.json``; a second time it must be the same."""
    entry = json.loads(json.dumps(item))
    for old in header[section]:
        if old["name"] == entry["name"]:
            for key in sorted(old.keys() | entry.keys()):
                _same(folder, f"{key} of {section[:-1]} '{entry['name']}'", old.get(key), entry.get(key))
            return
    header[section].append(entry)
    write_atomically(folder / "run.json", json.dumps(header, indent=1, ensure_ascii=False).encode())


def _same(folder: Path, what: str, before: object, now: object) -> None:
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        differ = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        key = min(differ, key=lambda name: name == "fingerprint")  # what made it differ says more
        return _same(folder, f"{key} of {what}", before.get(key), now.get(key))
    raise changed(folder, what, before, now)


def _one_model(
    folder: Path,
    ledger: Ledger,
    model: Encoder,
    captions: CaptionSet,
    climbers: Sequence[Climber],
    settings: dict[str, Any],
    bar: tqdm[Any],
) -> None:
    """Everything about one model; what is there already is not computed again."""
    written = {(r.model, r.attack) for r in read_records(folder / "records.jsonl")}
    names = [CLEAN, *(attack.name for attack in climbers)]
    if all((model.name, name) in written for name in names):
        bar.update(len(names) * len(captions))
        return
    bar.set_description_str(f"{model.name}: texts")
    head = TextHead.build(model, captions.texts, ("{}",)).to(device_of(model))
    work = _Work(ZeroShotClassifier(model, head, rows=int(settings["rows"])), captions, ledger, settings)
    for name, attack in zip(names, [None, *climbers], strict=True):
        bar.set_description_str(f"{model.name}: {name}")
        for count in work.fill(name, attack):
            bar.update(count)
        if (model.name, name) not in written:
            both = read_records(folder / "records.jsonl") + work.ranked(name)
            write_atomically(folder / "records.jsonl", to_lines(both))


class _Work:
    """One model on one set."""

    def __init__(
        self, model: ZeroShotClassifier, captions: CaptionSet, ledger: Ledger, settings: dict[str, Any]
    ) -> None:
        self.model, self.captions, self.ledger, self.settings = model, captions, ledger, settings
        self.device = device_of(model.encoder)
        self.texts: NDArray[np.float32] = model.head.embeddings.cpu().numpy()
        if not np.isfinite(self.texts).all():
            raise ModelError(f"model '{model.encoder.name}' has text features that are NaN or infinite")
        space = str(settings["threat"]).rsplit(":", 1)[1]
        self.task = in_space(captions.task, model.encoder, space)

    def fill(self, name: str, attack: Climber | None) -> Iterator[int]:
        """Computes the features that are not there yet, and gives the numbers of images that are."""
        everything = range(len(self.captions))
        missing = {i for i in everything if self._key(name, i) not in self.ledger.found}
        yield len(everything) - len(missing)
        for first in range(0, len(everything), self.model.rows):
            # What a kill left of a block is computed with the whole of it: a random model's draws go by the block.
            block = everything[first : first + self.model.rows]
            if left := missing.intersection(block):
                lines = self._found(name, attack, block)
                self.ledger.append([line for line in lines if line.key not in self.ledger.found])
                yield len(left)

    def _key(self, name: str, image: int) -> Key:
        return Key(self.model.encoder.name, name, int(self.captions.task.ids[image]))

    def _found(self, name: str, attack: Climber | None, chosen: Sequence[int]) -> list[Found]:
        pixels = to_pixels(self.task.images(chosen)).to(self.device)
        zero, seed = torch.zeros(len(chosen)), int(self.settings["seed"])
        ids = [int(self.captions.task.ids[i]) for i in chosen]
        if attack is None:
            features, sizes = self._units(pixels, ids), zero
            forwards, backwards = zero + self.model.samples, zero
        else:
            own = [self.captions.own_texts[i] for i in chosen]
            with Draws(self.device, seed, name, str(self.settings["threat"]), *ids):
                outcome = search(attack, self.model, pixels, own, seed=seed, examples=ids)
            allowed, sizes = enforce(attack.threat, outcome.pixels, pixels)
            features = self._units(allowed, ids)
            forwards, backwards = outcome.forwards + self.model.samples, outcome.backwards
            clean = np.stack([self.ledger.found[self._key(CLEAN, i)].vector for i in chosen])
            spared = ranks(features, self.texts, own) < ranks(clean, self.texts, own)
            features = np.where(spared[:, None], clean, features)
            sizes = sizes.cpu() * torch.from_numpy(~spared)
        columns = [c.tolist() for c in (sizes, forwards.long(), backwards.long())]
        return [
            Found(*self._key(name, i), size, int(forward), int(backward), Found.packed(vector))
            for i, vector, size, forward, backward in zip(chosen, features, *columns, strict=True)
        ]

    def _units(self, pixels: torch.Tensor, ids: Sequence[int]) -> NDArray[np.float32]:
        features = units(self.model, pixels, seed=int(self.settings["seed"]), examples=ids)
        if not np.isfinite(features).all():
            bad = int((~np.isfinite(features)).any(1).sum())
            raise ModelError(f"model '{self.model.encoder.name}': {bad} images have features that are NaN or infinite")
        return features

    def ranked(self, name: str) -> list[Ranked]:
        """One record for each image, once the whole gallery is there."""
        found = [self.ledger.found[self._key(name, i)] for i in range(len(self.captions))]
        images = np.stack([line.vector for line in found])
        own = self.captions.own_texts
        image_ranks = ranks(images, self.texts, own)
        text_ranks = ranks(self.texts, images, self.captions.owners)
        threat = "none" if name == CLEAN else str(self.settings["threat"])
        return [
            Ranked(
                model=line.model, attack=name, threat=threat, seed=int(self.settings["seed"]), example=line.example,
                image=self.captions.task.image_name(i), rank=int(image_ranks[i]), texts=own[i].tolist(),
                text_ranks=text_ranks[own[i]].tolist(), size=line.size, forwards=line.forwards,
                backwards=line.backwards,
            )
            for i, line in enumerate(found)
        ]  # fmt: skip
