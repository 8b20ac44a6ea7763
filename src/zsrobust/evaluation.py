"""(classifier, task, attacks) → records.

The harness, not the attack, enforces the budget: what an attack returns is projected again, and every prediction is
recomputed in float32 without autocast in one canonical batch shape. Examples that are wrong when clean are recorded and
not attacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zsrobust.attacks.base import Attack, Found, Streaming
from zsrobust.attacks.checks import Verdict, enforce, judge
from zsrobust.classifier import ZeroShotClassifier
from zsrobust.encoders.base import Encoder
from zsrobust.encoders.fingerprints import digest
from zsrobust.errors import ConfigError, DataError, ModelError, UnreadableImage
from zsrobust.passes import ROWS, float32_only, frozen
from zsrobust.pixels import to_pixels
from zsrobust.randomness import Draws, uniform
from zsrobust.records import CLEAN, NO_THREAT, Done, Record
from zsrobust.tasks import Task
from zsrobust.text_head import TextHead

BATCH_SIZE = 256


@dataclass(frozen=True)
class Attacked:
    """A batch after an attack, for whoever wants the images: B examples of a task under one attack.

    Attributes:
        indices: (B,) positions in the task.
        pixels: (B, 3, H, W) the images, on the CPU or the model's device.
        found: The verdict on the adversarial images.
        seed: Key of the verdict's draws, with the examples' ids.
    """

    classifier: ZeroShotClassifier
    model: str
    task: Task
    attack: Attack
    indices: np.ndarray[tuple[int], np.dtype[np.int64]]
    pixels: Tensor
    found: Verdict
    seed: int = 0


Watcher = Callable[[Attacked], None]


@dataclass
class Claims:
    """How often an attack said that it had succeeded, and how often the verdict was another."""

    made: int = 0
    refuted: int = 0


def device_of(encoder: Encoder) -> torch.device:
    """Where the encoder's weights are; the CPU for one without weights."""
    parameters = encoder.parameters() if isinstance(encoder, nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device


def fingerprint_of(encoder: Encoder) -> str:
    """The encoder's own fingerprint, or for one without it a hash of its weights and of what it answers.

    The answers are its features of a fixed noise image and of a fixed text (if it takes any), and its logit scale. The
    weights are the parameters of a module; of what is none, only the answers tell one model from another. With them the
    second kind changes with the processor too. A random encoder's is of one draw, always the same.

    Raises:
        ModelError: the weights are sharded over processes (FSDP2).
    """
    if isinstance(encoder, nn.Module) and any(hasattr(weight, "device_mesh") for weight in encoder.parameters()):
        raise ModelError(
            f"the weights of '{encoder.name}' are sharded (FSDP2): every process would have to make the same passes, "
            "which attacks do not; give the whole model (micro_batch and checkpoint_activations save memory)"
        )
    own: Callable[[], str] | None = getattr(encoder, "fingerprint", None)
    if own is not None:
        return own()
    probe = uniform([("fingerprint",)], (3, *encoder.input_size), device=device_of(encoder))
    draws = Draws(probe.device, "fingerprint")
    with torch.no_grad(), frozen(encoder), float32_only(probe.device), draws:
        answers = {"of noise": encoder.encode_pixels(probe)}
        with suppress(Exception):  # an encoder of one's own may know the names of its classes alone
            answers["of a text"] = encoder.encode_texts(["a photo of a thing"])
    weights = dict(encoder.named_parameters()) if isinstance(encoder, nn.Module) else {}
    return digest(weights | {key: answer.float() for key, answer in answers.items()}, f"{float(encoder.logit_scale)}")


def in_space(task: Task, encoder: Encoder, space: str) -> Task:
    """The task with the pixels that the adversary may touch: its own (``native``), or the model's input (``model``)."""
    return task.with_geometry(encoder.geometry) if space == "model" else task


def check_task(task: Task) -> None:
    """Whether the task can be attacked.

    Raises:
        ConfigError: fewer than two classes: there is no other class to be misled to.
    """
    if len(task.class_names) < 2:
        raise ConfigError(f"task '{task.name}' has {len(task.class_names)} class: there is nothing to tell apart")


def classifier_for(encoder: Encoder, task: Task, *, rows: int = ROWS) -> ZeroShotClassifier:
    """The zero-shot classifier of ``encoder`` for the task's class names and templates.

    Raises:
        ConfigError: fewer than two classes, or two that are the same text to the encoder.
    """
    check_task(task)
    try:
        head = TextHead.of_classes(encoder, task.class_names, task.templates)
    except ConfigError as problem:
        raise ConfigError(f"task '{task.name}': {problem}") from None
    return ZeroShotClassifier(encoder, head, rows=rows)


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
    claims: Claims | None = None,
    begin: Callable[[Attack, int], None] | None = None,
    positions: Sequence[int] | None = None,
) -> Iterator[list[Record]]:
    """Records of one model on one task, in parts, as examples finish.

    Args:
        classifier: Pixels → logits.
        task: The examples.
        attacks: Each is run on every example that is right when clean; a member of a suite only on those that the
            members before it left standing. Their threats may differ.
        model: Name in the records.
        seed: Key of the attacks' random numbers, and of a random model's draws.
        batch_size: Examples in flight. Verdicts do not depend on it, unless the model is random: then what an attack
            finds does.
        done: What is known already and is not computed again; kept up to date.
        watch: Called with each attacked batch.
        claims: Counts what the attacks claim of themselves.
        begin: Called before an attack, with the number of examples that it is given.
        positions: Which examples, ascending; None: all. Verdicts do not depend on which others are looked at.
    """
    claims = claims if claims is not None else Claims()
    done = done if done is not None else Done()
    device = device_of(classifier.encoder)
    chosen = np.arange(len(task)) if positions is None else np.asarray(positions, dtype=np.int64)
    for indices in np.array_split(chosen, range(batch_size, len(chosen), batch_size)):
        missing = [i for i in indices if int(task.ids[i]) not in done.clean]
        if not missing and not any(_open(done, attack, task, indices) for attack in attacks):
            continue
        batch = _Batch(task, indices, device)
        if missing:
            yield _noted(done, batch.clean(classifier, missing, model, seed))
        for attack in attacks:
            if open_ := _open(done, attack, task, indices):
                if begin is not None:
                    begin(attack, len(open_))
                for records in batch.attacked(classifier, attack, np.array(open_), (model, seed), watch, claims):
                    yield _noted(done, records)


def _noted(done: Done, records: list[Record]) -> list[Record]:
    for record in records:
        done.add(record)
    return records


def unfinished(done: Done, attacks: Sequence[Attack], task: Task) -> list[int]:
    """Positions of the task that need work, ascending."""
    everything = range(len(task))
    left = {i for i in everything if int(task.ids[i]) not in done.clean}
    return sorted(left.union(*(_open(done, attack, task, everything) for attack in attacks)))


def _open(done: Done, attack: Attack, task: Task, indices: Sequence[int] | np.ndarray[Any, Any]) -> list[int]:
    """Positions that ``attack`` has yet to look at; those not known when clean count."""
    needed = done.needs(attack.name, attack.threat.describe())
    return [int(i) for i in indices if needed(int(task.ids[i]))]


class _Batch:
    """Pixels and labels of some examples of a task, decoded once for all attacks."""

    def __init__(self, task: Task, indices: np.ndarray[tuple[int], np.dtype[np.int64]], device: torch.device) -> None:
        self.task = task
        self.indices = indices
        try:
            self.pixels = to_pixels(task.images(indices.tolist())).to(device)
        except UnreadableImage as problem:
            raise DataError(f"{problem}; --on_bad_image skip leaves such images out, in a new run") from problem
        self.labels = torch.from_numpy(task.labels[indices]).to(device)

    def _rows(self, indices: Sequence[int] | np.ndarray[Any, Any]) -> list[int]:
        """Where positions of the task are in the batch."""
        found: list[int] = np.searchsorted(self.indices, indices).tolist()
        return found

    def clean(self, classifier: ZeroShotClassifier, indices: Sequence[int], model: str, seed: int) -> list[Record]:
        rows = self._rows(indices)
        ids = self.task.ids[list(indices)].tolist()
        verdict = judge(classifier, self.pixels[rows], self.labels[rows], seed=seed, examples=ids)
        zero = torch.zeros(len(rows))
        asked = zero + classifier.samples
        return _records(self.task, indices, verdict, zero, asked, zero, (model, seed, CLEAN, NO_THREAT))

    def attacked(
        self,
        classifier: ZeroShotClassifier,
        attack: Attack,
        indices: np.ndarray[tuple[int], np.dtype[np.int64]],
        who: tuple[str, int],
        watch: Watcher | None,
        claims: Claims,
    ) -> Iterator[list[Record]]:
        rows = self._rows(indices)
        pixels, labels = self.pixels[rows], self.labels[rows]
        ids = [int(example) for example in self.task.ids[indices]]
        model, seed = who
        key = (model, seed, attack.name, attack.threat.describe())
        # An attack of one's own may write into what it is given; the budget is around the image as it was.
        for part, outcome in _found(attack, classifier, pixels.clone(), labels.clone(), seed, ids):
            allowed, sizes = enforce(attack.threat, outcome.pixels, pixels[part])
            some = [ids[i] for i in part.tolist()]
            verdict = judge(classifier, allowed, labels[part], seed=seed, examples=some)
            if outcome.claimed is not None:
                claims.made += int(outcome.claimed.sum())
                claims.refuted += int((outcome.claimed & (verdict.predictions == labels[part])).sum())
            chosen = indices[part.cpu().numpy()]
            if watch is not None:
                watch(Attacked(classifier, model, self.task, attack, chosen, pixels[part], verdict, seed))
            costs = outcome.forwards + classifier.samples, outcome.backwards
            yield _records(self.task, chosen.tolist(), verdict, sizes, *costs, key)


def _found(
    attack: Attack, model: ZeroShotClassifier, pixels: Tensor, labels: Tensor, seed: int, examples: Sequence[int]
) -> Iterator[Found]:
    """What the attack finds: in parts if it can, else all at once; a random model's draws go by what it is given."""
    draws = Draws(pixels.device, seed, attack.name, attack.threat.describe(), *examples)
    if not isinstance(attack, Streaming):
        with draws:
            outcome = attack.search(model, pixels, labels, seed=seed, examples=examples)
        yield torch.arange(len(pixels), device=pixels.device), outcome
        return
    parts = iter(attack.stream(model, pixels, labels, seed=seed, examples=examples))
    while True:
        with draws:  # between two parts the generators are the caller's
            part = next(parts, None)
        if part is None:
            return
        yield part


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
