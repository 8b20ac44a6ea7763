"""(classifier, task, attacks) → records.

The harness, not the attack, enforces the budget: what an attack returns is projected again, and every prediction is
recomputed in float32 without autocast in one canonical batch shape. Examples that are wrong when clean are recorded and
not attacked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from zsrobust.attacks.base import Attack, Found, Streaming
from zsrobust.attacks.checks import Verdict, enforce, judge
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, DataError, UnreadableImage
from zsrobust.passes import ROWS, float32_only, frozen
from zsrobust.pixels import to_pixels
from zsrobust.randomness import uniform
from zsrobust.records import CLEAN, NO_THREAT, Cell, Done, Record
from zsrobust.run_folder import RunFolder
from zsrobust.tasks import Task
from zsrobust.text_head import TextHead
from zsrobust.threat import Threat

BATCH_SIZE = 256


@dataclass(frozen=True)
class Attacked:
    """A batch after an attack, for whoever wants the images: B examples of a task under one attack.

    Attributes:
        indices: (B,) positions in the task.
        pixels: (B, 3, H, W) the images, on the CPU or the model's device.
        found: The verdict on the adversarial images.
    """

    classifier: ZeroShotClassifier
    model: str
    task: Task
    attack: Attack
    indices: np.ndarray[tuple[int], np.dtype[np.int64]]
    pixels: Tensor
    found: Verdict


Watcher = Callable[[Attacked], None]


def device_of(encoder: Encoder) -> torch.device:
    """Where the encoder's weights are; the CPU for one without weights."""
    parameters = encoder.parameters() if isinstance(encoder, nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device


def fingerprint_of(encoder: Encoder) -> str:
    """The encoder's own fingerprint, or for one without it the hash of its features of a fixed noise image.

    Either way another set of weights has another one; the second kind also changes with the processor that computed it.
    """
    own: Callable[[], str] | None = getattr(encoder, "fingerprint", None)
    if own is not None:
        return own()
    probe = uniform([("fingerprint",)], (3, *encoder.input_size), device=device_of(encoder))
    with torch.no_grad(), frozen(encoder), float32_only(probe.device):
        return hashlib.sha256(encoder.encode_pixels(probe).float().cpu().numpy().tobytes()).hexdigest()


def in_space(task: Task, encoder: Encoder, space: str) -> Task:
    """The task with the pixels that the adversary may touch: its own (``native``), or the model's input (``model``)."""
    return task.with_geometry(encoder.geometry) if space == "model" else task


def classifier_for(encoder: Encoder, task: Task, *, rows: int = ROWS) -> ZeroShotClassifier:
    """The zero-shot classifier of ``encoder`` for the task's class names and templates.

    Raises:
        ConfigError: fewer than two classes: there is no other class to be misled to.
    """
    if len(task.class_names) < 2:
        raise ConfigError(f"task '{task.name}' has {len(task.class_names)} class: there is nothing to tell apart")
    return ZeroShotClassifier(encoder, TextHead.build(encoder, task.class_names, task.templates), rows=rows)


def evaluate_task(
    classifier: ZeroShotClassifier,
    task: Task,
    attacks: Sequence[Attack],
    *,
    model: str,
    seed: int,
    batch_size: int = BATCH_SIZE,
    done: Done | None = None,
    watch: Watcher | None = None,
) -> Iterator[list[Record]]:
    """Records of one model on one task, in parts, as examples finish.

    Args:
        classifier: Pixels → logits.
        task: The examples.
        attacks: Each is run on every example that is right when clean; a member of a suite only on those that the
            members before it left standing. Their threats may differ.
        model: Name in the records.
        seed: Key of the attacks' random numbers.
        batch_size: Examples in flight. Verdicts do not depend on it.
        done: What is known already and is not computed again; kept up to date.
        watch: Called with each attacked batch.
    """
    done = done if done is not None else Done()
    device = device_of(classifier.encoder)
    for indices in np.array_split(np.arange(len(task)), range(batch_size, len(task), batch_size)):
        missing = [i for i in indices if int(task.ids[i]) not in done.clean]
        if not missing and not any(_open(done, attack, task, indices) for attack in attacks):
            continue
        batch = _Batch(task, indices, device)
        if missing:
            yield _noted(done, batch.clean(classifier, missing, model, seed))
        for attack in attacks:
            if open_ := _open(done, attack, task, indices):
                for records in batch.attacked(classifier, attack, np.array(open_), model, seed, watch):
                    yield _noted(done, records)


def _noted(done: Done, records: list[Record]) -> list[Record]:
    for record in records:
        done.add(record)
    return records


def _open(done: Done, attack: Attack, task: Task, indices: Sequence[int] | np.ndarray[Any, Any]) -> list[int]:
    """Positions that ``attack`` has yet to look at; those not known when clean count."""
    settled = done.settled(attack.name, attack.threat.describe())
    wrong = done.clean - done.correct
    return [int(i) for i in indices if (example := int(task.ids[i])) not in wrong and example not in settled]


class _Batch:
    """Pixels and labels of some examples of a task, decoded once for all attacks."""

    def __init__(self, task: Task, indices: np.ndarray[tuple[int], np.dtype[np.int64]], device: torch.device) -> None:
        self.task = task
        self.first = int(indices[0])
        try:
            self.pixels = to_pixels(task.images(indices.tolist())).to(device)
        except UnreadableImage as problem:
            raise DataError(f"{problem}; --on_bad_image skip leaves such images out, in a new run") from problem
        self.labels = torch.from_numpy(task.labels[indices]).to(device)

    def clean(self, classifier: ZeroShotClassifier, indices: Sequence[int], model: str, seed: int) -> list[Record]:
        rows = [int(i) - self.first for i in indices]
        verdict = judge(classifier, self.pixels[rows], self.labels[rows])
        zero = torch.zeros(len(rows))
        return _records(self.task, indices, verdict, zero, zero + 1, zero, (model, seed, CLEAN, NO_THREAT))

    def attacked(
        self,
        classifier: ZeroShotClassifier,
        attack: Attack,
        indices: np.ndarray[tuple[int], np.dtype[np.int64]],
        model: str,
        seed: int,
        watch: Watcher | None,
    ) -> Iterator[list[Record]]:
        rows = (indices - self.first).tolist()
        pixels, labels = self.pixels[rows], self.labels[rows]
        ids = [int(example) for example in self.task.ids[indices]]
        key = (model, seed, attack.name, attack.threat.describe())
        for part, outcome in _found(attack, classifier, pixels, labels, seed, ids):
            allowed, sizes = enforce(attack.threat, outcome.pixels, pixels[part])
            verdict = judge(classifier, allowed, labels[part])
            chosen = indices[part.cpu().numpy()]
            if watch is not None:
                watch(Attacked(classifier, model, self.task, attack, chosen, pixels[part], verdict))
            samples = getattr(classifier, "samples", 1)
            costs = outcome.forwards + samples, outcome.backwards
            yield _records(self.task, chosen.tolist(), verdict, sizes, *costs, key)


def _found(
    attack: Attack, model: ZeroShotClassifier, pixels: Tensor, labels: Tensor, seed: int, examples: Sequence[int]
) -> Iterator[Found]:
    """What the attack finds: in parts if it can, else all at once."""
    if isinstance(attack, Streaming):
        yield from attack.stream(model, pixels, labels, seed=seed, examples=examples)
    else:
        everything = torch.arange(len(pixels), device=pixels.device)
        yield everything, attack.search(model, pixels, labels, seed=seed, examples=examples)


def _records(
    task: Task,
    indices: Sequence[int],
    verdict: Verdict,
    sizes: Tensor,
    forwards: Tensor,
    backwards: Tensor,
    key: tuple[str, int, str, str],
) -> list[Record]:
    model, seed, attack, threat = key
    columns = [c.tolist() for c in (verdict.predictions, verdict.margins, sizes, forwards.long(), backwards.long())]
    return [
        Record(
            model=model,
            task=task.name,
            example=int(task.ids[i]),
            image=task.image_id(int(i)),
            label=int(task.labels[i]),
            seed=seed,
            attack=attack,
            threat=threat,
            prediction=prediction,
            correct=prediction == int(task.labels[i]),
            margin=margin,
            size=size,
            forwards=forward,
            backwards=backward,
        )
        for i, prediction, margin, size, forward, backward in zip(indices, *columns, strict=True)
    ]


def settings(threats: Sequence[Threat], *, rows: int, device: torch.device) -> dict[str, object]:
    """What must not change within a run.

    Raises:
        ConfigError: threats of both spaces: their clean images differ, so they are two runs.
    """
    spaces = sorted({threat.space for threat in threats})
    if len(spaces) != 1:
        raise ConfigError(
            f"one run has one threat space, not {' and '.join(spaces)}: their images differ; make two runs"
        )
    return {"space": spaces[0], "precision": "float32", "rows": rows, "device": device.type}


def evaluate_into(
    run: RunFolder,
    encoder: Encoder,
    tasks: Sequence[Task],
    attacks: Sequence[Attack],
    *,
    seed: int,
    batch_size: int = BATCH_SIZE,
    watch: Watcher | None = None,
) -> None:
    """Evaluates one model on some tasks into a run folder, going on where it stopped.

    Args:
        run: Where the records go; its settings say space and rows.
        encoder: The model.
        tasks: In their own geometry; ``model`` space is applied here.
        attacks: Attack × threat, each with its budget.
        seed: Key of the attacks' random numbers.
        batch_size: Examples in flight.
        watch: Called with each attacked batch.

    Raises:
        RunError: the run is another one's, or cannot be written; what is there is kept.
    """
    describe_model(run, encoder)
    run.declare("seeds", seed)
    for attack in attacks:
        run.declare("attacks", attack.describe() | {"threat": attack.threat.describe()})
        run.declare("threats", attack.threat.describe())
    for task in tasks:  # all of them first: the report of a run that stops early then says what is missing
        run.declare("tasks", in_space(task, encoder, str(run.header["space"])).describe())
    done = run.records.done()
    for task in (in_space(task, encoder, str(run.header["space"])) for task in tasks):
        classifier = classifier_for(encoder, task, rows=int(run.header["rows"]))
        known = done.get(Cell(encoder.name, task.name, seed), Done())
        label = f"{encoder.name} on {task.name}"
        with tqdm(total=len(task) * (1 + len(attacks)), desc=label, unit="verdict", disable=None, leave=False) as bar:
            bar.update(_verdicts(known, len(attacks)))
            for records in evaluate_task(
                classifier, task, attacks, model=encoder.name, seed=seed, batch_size=batch_size, done=known, watch=watch
            ):
                run.records.append(records)
                skipped = sum(record.attack == CLEAN and not record.correct for record in records)
                bar.update(len(records) + skipped * len(attacks))


def _verdicts(done: Done, attacks: int) -> int:
    wrong = len(done.clean) - len(done.correct)
    return len(done.clean) + wrong * attacks + sum(len(examples) for examples in done.attacked.values())


def describe_model(run: RunFolder, encoder: Encoder) -> None:
    """Declares the model in ``run.json``."""
    provenance = dict(encoder.provenance)
    run.declare(
        "models",
        {
            "name": encoder.name,
            "fingerprint": fingerprint_of(encoder),
            "adapted_on": provenance.get("adapted_on", []),
            "resize": encoder.resize_description,
            "provenance": provenance,
        },
    )
