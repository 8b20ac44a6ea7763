"""Published numbers beside ours: only for the same model, task, threat and attack.

Where a doubt is left whether two things are the same, nothing is shown. What does not decide that, but matters to a
reader who compares (images, split, prompts, training), is said with the number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from zsrobust.errors import RunError
from zsrobust.report.load import Model
from zsrobust.report.merge import settings_of, suites_of
from zsrobust.report.references import Published, PublishedModel, Source, eps_of, published
from zsrobust.report.results import Row
from zsrobust.report.summary import Summary
from zsrobust.report.words import parse_threat, percent, plural

TITLE = "Published"
WORDS = (
    "Numbers of others for the same model, task, threat and attack. They were not measured here and are in no mean "
    "and no interval of this report."
)

# What zsrobust writes of a model that is as it was loaded.
_AS_LOADED = ("format", "source", "revision", "license", "adapted_on", "versions")
_APGD_LOSSES = ("ce", "dlr-t")
_OPTIMISATION = ("batch_size", "optimizer", "lr")
# Of an adaptation, what does not decide which method it was; it is said instead, where it matters.
_CIRCUMSTANCES = (
    *("base", "base_fingerprint", "task", "task_fingerprint", "templates", "images", "attack", "threads", "epochs"),
    *("batch_size", "lr", "optimizer", "weight_decay", "warmup", "precision", "seed"),
    *("processes", "micro_batch", "checkpoint_activations", "attack_precision", "attention", "compile"),
)


@dataclass(frozen=True)
class Quote:
    """One published number beside ours; ours in [0, 1], theirs in percent, as published.

    ``label`` is the task, or the mean over several; ours is then the plain mean of the rows. ``clean`` and ``n`` of the
    published side are None where the source does not say; ``digits`` is how many decimals it prints.
    """

    label: str
    n: str
    published_n: int | None
    clean: float
    published_clean: float | None
    robust: float
    published_robust: float
    digits: int

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Label, and here and there: images, clean and robust, as text; what is not stated is a dash."""
        clean = "–" if self.published_clean is None else f"{self.published_clean:.{self.digits}f}"
        images = "–" if self.published_n is None else f"{self.published_n:,}"
        return (
            self.label,
            f"{self.n}, {images}",
            f"{percent(self.clean)}, {clean}",
            f"{percent(self.robust)}, {self.published_robust:.{self.digits}f}",
        )


@dataclass(frozen=True)
class Quotation:
    """All numbers of one source for one model of ours; ``remarks`` are sentences with their full stops."""

    source: Source
    model: str
    published_model: str
    attack: str
    quotes: tuple[Quote, ...]
    remarks: tuple[str, ...]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the numbers are, as (noun, sentence)."""
        where = [] if self.source.seen == "paper" else [("Read in", f"{self.source.where} ({self.source.seen})")]
        return [
            ("Source", self.source.title),
            *where,
            ("Model", f"{self.model} here, {self.published_model} there"),
            ("Attack", self.attack),
        ]


def quotations(summary: Summary, rows: Sequence[Row]) -> tuple[Quotation, ...]:
    """What was published for rows of one table (one threat, one seed); empty where nothing matches.

    Args:
        summary: Says what the models and tasks are.
        rows: Rows of one threat and seed.
    """
    found = []
    for model in summary.models:
        of_model = {row.task: row for row in rows if row.model == model.name}
        alike = [p for p in published(kind="robust") if same_model(model, p.model)] if of_model else []
        pairs = [(p, ours) for p in alike if (ours := _same_rows(p, of_model, summary))]
        for key in dict.fromkeys((p.source, p.model, p.attack) for p, _ in pairs):
            here = [(p, ours) for p, ours in pairs if (p.source, p.model, p.attack) == key]
            found.append(_quotation(model, here, summary))
    return tuple(found)


def same_model(model: Model, other: PublishedModel) -> bool:
    """Whether a model of a run is the one that a number was published for, going by its provenance.

    A model from the hub is what its id says. A model that zsrobust adapted is the same if its base, method, task,
    radius, labels and what was trained are, with the options that the source used, and nothing else is known of it.
    """
    told = model.provenance
    if not model.adapted_on:
        known = other.weights or (other.bases if not other.method else ())
        return told.get("source") in known and not _more(told, _AS_LOADED)
    how = told.get("adaptation")
    if not isinstance(how, Mapping) or not other.method or not other.eps:
        return False
    tuning, method = how.get("tuning", {"name": "full"}), how.get("method")
    return (
        (told.get("base_model") or told.get("source")) in other.bases
        and tuple(model.adapted_on) == (other.adapted_on,) == (how.get("task"),)
        and _is(method, other.method, other.options)
        and _is(tuning, other.tuning, {})
        and how.get("labels", other.labels) in (other.labels, "true")  # what reads none may be left at the default
        and _is_radius(how.get("threat"), eps_of(other.eps))
        and not _more(told, (*_AS_LOADED, "base", "base_model", "adaptation"))
        and not _more(how, (*_CIRCUMSTANCES, "method", "tuning", "labels", "threat"))
    )


def _more(told: Mapping[str, Any], known: Iterable[str]) -> bool:
    """Whether something is told that is not known here: it might make the model another one."""
    return any(value not in (None, "", [], {}, False) for key, value in told.items() if key not in known)


def _is(described: object, name: str, options: Mapping[str, float]) -> bool:
    """Whether ``{"name": …}`` is this thing, with these options and no other one set."""
    if not isinstance(described, Mapping) or not name:
        return False
    return {key: value for key, value in described.items() if value is not None} == {"name": name, **options}


def _is_radius(threat: object, eps: float) -> bool:
    """Whether a training threat is this ball in L∞."""
    try:
        parsed = parse_threat(str(threat))
    except RunError:
        return False
    return parsed.norm == "linf" and _close(parsed.eps, eps)


def _same_rows(other: Published, rows: Mapping[str, Row], summary: Summary) -> list[Row]:
    """Our rows that a number is about, one for each of its tasks; none if one is missing or another thing."""
    if other.attack is None or other.radius is None or any(task not in rows for task in other.tasks):
        return []
    ours = [rows[task] for task in other.tasks]
    same = all(
        other.attack.is_ours(row.attack, row.classes)
        and all(_as_named(summary, name, row.threat) for name in suites_of(summary.settings, row))
        and row.norm == other.norm
        and _close(row.eps, other.radius)
        and _same_space(space, row, summary.tasks[row.task].geometry, other.model.input)
        for row, space in zip(ours, other.spaces, strict=True)
    )
    return ours if same else []


def _as_named(summary: Summary, attack: str, threat: str) -> bool:
    """Whether an attack has the settings that its name stands for: some can be changed without a trace in the name."""
    told = settings_of(summary.settings, attack, threat)
    return (
        told.get("random_start") is not False
        and told.get("loss") in (None, "cross_entropy", *_APGD_LOSSES)
        and (not attack.startswith("paper:") or _close(told.get("step_size", 1 / 255), 1 / 255))
    )


def _close(value: object, number: float) -> bool:
    return isinstance(value, float) and math.isclose(value, number)


def _same_space(other: str, row: Row, geometry: str, side: int) -> bool:
    """Whether the perturbation lives in the same space, or theirs is unknown.

    Where the images of a task have the size of the model's input already, the two spaces are one.
    """
    square = rf"({side}|{side}x{side})"
    at_input = re.fullmatch(rf".+/{square} \w+|crop {square}|(exactly )?{side}x{side} .+", geometry)
    return other in ("unknown", row.space) or (other == "model" and at_input is not None)


def _quotation(model: Model, pairs: Sequence[tuple[Published, list[Row]]], summary: Summary) -> Quotation:
    first = pairs[0][0]
    assert first.attack is not None
    clean = {(p.model, p.tasks, p.mean): p for p in published(source=first.source.name, kind="clean")}
    partners = [clean.get((p.model, p.tasks, p.mean)) for p, _ in pairs]
    digits = 2 if any(round(p.value, 1) != p.value for p in published(source=first.source.name)) else 1
    told = [p for pair, partner in zip(pairs, partners, strict=True) for p in (pair[0], partner) if p is not None]
    return Quotation(
        source=first.source,
        model=model.name,
        published_model=_who(first.model),
        attack=first.attack.words,
        quotes=tuple(_quote(p, ours, partner, digits) for (p, ours), partner in zip(pairs, partners, strict=True)),
        remarks=_sentences([first.source.note, *(p.note for p in told), *_differences(model, pairs, summary)]),
    )


def _sentences(remarks: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(remark for remark in remarks if remark))


def _who(model: PublishedModel) -> str:
    """``TeCoA, adapted on imagenet at ε = 1/255``."""
    if not model.method:
        return model.name
    return f"{model.name}, adapted on {model.adapted_on}" + (f" at ε = {model.eps}" if model.eps else "")


def _quote(other: Published, ours: Sequence[Row], clean: Published | None, digits: int) -> Quote:
    sizes = sorted({row.n for row in ours})
    return Quote(
        label=f"mean of {plural(len(ours), 'task')}" if other.mean else ours[0].task,
        n=f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,}–{sizes[-1]:,}",
        published_n=other.n,
        clean=sum(row.clean for row in ours) / len(ours),
        published_clean=None if clean is None else clean.value,
        robust=sum(row.robust for row in ours) / len(ours),
        published_robust=other.value,
        digits=digits,
    )


class _Side(NamedTuple):
    """A row of ours, and what the published number says of the same task."""

    row: Row
    space: str
    split: str


def _differences(model: Model, pairs: Sequence[tuple[Published, list[Row]]], summary: Summary) -> Iterator[str]:
    """What is not known to be the same, as sentences."""
    sides = {
        row.task: _Side(row, *there) for p, rows in pairs for row, *there in zip(rows, p.spaces, p.splits, strict=True)
    }
    if unknown := [task for task, side in sides.items() if side.space == "unknown"]:
        yield f"Where the perturbation lived is not stated{_on(unknown, sides)}; here: {sides[unknown[0]].row.space}."
    if silent := [task for task, side in sides.items() if not side.split]:
        splits = dict.fromkeys(sides[task].row.split for task in silent)
        yield f"Which split it was is not stated{_on(silent, sides)}; here: {', '.join(splits)}."
    for here, there in dict.fromkeys((side.row.split, side.split) for side in sides.values()):
        if there and here != there:
            tasks = [task for task, side in sides.items() if (side.row.split, side.split) == (here, there)]
            yield f"The split is called '{here}' here and '{there}' there{_on(tasks, sides)}."
    if any(p.n is None for p, _ in pairs):
        yield "How many images they took of a task is not stated."
    yield f"Images here: {'; '.join(dict.fromkeys(summary.tasks[task].geometry or 'not stored' for task in sides))}."
    if prompts := _prompts([summary.tasks[task].templates for task in sides]):
        yield prompts
    if rough := sorted({side.row.precision for side in sides.values()} - {"float32"}):
        yield f"Precision here: {', '.join(rough)}."
    if model.adapted_on:
        yield _training(model, pairs[0][0].model)


def _on(tasks: Sequence[str], sides: Mapping[str, _Side]) -> str:
    return "" if len(tasks) == len(sides) else f" for {', '.join(tasks)}"


def _prompts(templates: Sequence[tuple[str, ...]]) -> str:
    if not all(templates):
        return ""
    if len(set(templates)) == 1 and len(templates[0]) == 1:
        return f"Prompt here: '{templates[0][0]}'."
    sizes = sorted({len(t) for t in templates})
    return f"Prompts here: {'–'.join(map(str, sizes[:: max(1, len(sizes) - 1)]))} for a class."


def _training(model: Model, other: PublishedModel) -> str:
    how = model.provenance["adaptation"]
    facts = [f"{key.replace('_', ' ')} {how[key]}" for key in ("images", "epochs", *_OPTIMISATION) if key in how]
    if isinstance(how.get("attack"), Mapping):
        facts.append(f"against {how['attack'].get('name')}")
    return f"Trained here: {', '.join(facts) or 'not stored'}; there: {other.training or 'not stated'}."
