"""One step of adversarial adaptation: the adversary climbs, the learner descends, and memory that runs out is no end.

Where several processes share a batch, each attacks and learns from its own rows. The adversary works on the bare model
with frozen weights; only the learner's losses go through ``DistributedDataParallel``, which averages the gradients. A
loss is scaled so that this average is the gradient of the mean over the whole batch, whatever the processes' parts are.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zsrobust.attacks.pgd import PGD
from zsrobust.distributed import World, total
from zsrobust.errors import RunError
from zsrobust.evaluation import device_of
from zsrobust.memory import ran_out, release
from zsrobust.methods.base import Batch, Learner, Method
from zsrobust.methods.targets import prepare
from zsrobust.passes import frozen
from zsrobust.randomness import generator
from zsrobust.recipe import Precision, Recipe
from zsrobust.recomputation import recomputed
from zsrobust.training_data import Keys, Part

_DTYPES = {"float32": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16}
_LIFT = 256.0
"""What the adversary's objective is multiplied by in fp16, whose smallest numbers a gradient by pixels would miss."""
_FIRST_SCALE = 2.0**10
"""Of fp16's loss. Torch begins at 2^16 and leaves out the steps until it fits: in a short run they would be missed."""
_LOWEST_SCALE = 2.0**-14
"""Of fp16's loss: where gradients overflow even there, the run has diverged."""


_NAME = "forward_sync_buffers"
_BUFFERS_STAY: dict[str, Any] = {
    # Nothing changes a buffer while a tower is adapted. Torch has renamed the option.
    _NAME if _NAME in inspect.signature(DistributedDataParallel).parameters else "broadcast_buffers": False
}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The passes of a training run in a precision; weights stay float32."""
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "float32")


class Losses(nn.Module):
    """The learner's losses of each example, as a module: what is trained are its parameters."""

    def __init__(self, learner: Learner, method: Method) -> None:
        super().__init__()
        self.encoder, self.extra = learner.encoder, learner.extra
        self._of = (learner, method)  # in a tuple: the original must not become a part of this module

    def forward(self, points: Tensor, batch: Batch) -> Tensor:
        """(B, 3, H, W) → (B,)."""
        learner, method = self._of
        return method.outer(learner, points, batch)


class Step:
    """What one step does, again and again.

    Args:
        learner: What is trained.
        method: Its two functions.
        attack: What the learner trains against.
        parameters: What of the learner is trained.
        optimizer: Over them.
        how: The recipe.
        world: Who shares a batch.

    Attributes:
        rows: Rows that are passed at once; None: all.
        scaler: Scales fp16's loss; None in other precisions.
    """

    def __init__(
        self,
        learner: Learner,
        method: Method,
        attack: PGD,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        how: Recipe,
        world: World,
    ) -> None:
        self.learner, self.method, self.attack = learner, method, attack
        self.parameters, self.optimizer, self.how, self.world = parameters, optimizer, how, world
        self.rows = how.micro_batch
        self.device = device_of(learner.encoder)
        self.scaler = (
            torch.amp.GradScaler(self.device.type, init_scale=_FIRST_SCALE) if how.precision == "fp16" else None
        )
        self.losses: nn.Module = Losses(learner, method)

    def take(self, part: Part, step: int) -> tuple[float, Tensor]:
        """One step of the optimizer: the mean loss of the whole batch (NaN: no step was taken), and the points.

        Where memory runs out, the rows that are passed at once are halved and everything begins again, with the same
        random numbers.

        Raises:
            RunError: there is not enough memory for a single row.
        """
        if not self.world.alone:
            # Who draws from torch's own generator draws as many numbers as it has rows.
            torch.manual_seed(generator(self.how.seed, "step", step, self.world.rank).initial_seed())
        random_state = torch.get_rng_state()
        while True:
            try:
                mean, points = self.gradients(part)
                break
            except Exception as error:
                self._halve(len(part.keys), error)
            release(self.device)
            torch.set_rng_state(random_state)
        return self.descend(mean), points

    def try_once(self, part: Part) -> None:
        """A step of this process alone, whatever its loss is; what torch raises for want of memory is raised."""
        self.gradients(part)
        self.optimizer.step()

    def gradients(self, part: Part) -> tuple[Tensor, Tensor]:
        """This process's share of the mean loss, whose gradients are in the parameters; and the adversary's points."""
        batch = self.prepared(part)
        points = self.adversary(batch, part.keys)
        return self.learn(points, batch), points

    def prepared(self, part: Part) -> Batch:
        """The batch, with what the method asks for beside the images."""
        views, share = self.method.views(part.pixels, part.keys), None if self.world.alone else part.share
        batches = []
        for first, end in self._pieces(len(views)):
            with autocast(self.device, self.how.precision):
                pixels, truth = views[first:end], part.truth[first:end]
                batches.append(prepare(self.learner, self.method, pixels, truth, self.how.labels, share))
        if len(batches) == 1:
            return batches[0]
        labels, targets, anchors = (
            None if column[0] is None else torch.cat(column)
            for column in ([getattr(b, name) for b in batches] for name in ("labels", "targets", "anchors"))
        )
        return Batch(views, labels, targets, anchors, share)

    def adversary(self, batch: Batch, keys: Keys) -> Tensor:
        """The points that the learner is to withstand: (B, 3, H, W)."""
        if not self.method.adversarial:
            return batch.pixels
        found = []
        with ExitStack() as stack:
            stack.enter_context(frozen(self.learner.encoder))
            stack.enter_context(frozen(self.learner.extra))
            stack.enter_context(autocast(self.device, self.how.precision))
            if self.how.attack_precision == "bfloat16":  # after freezing: the copy is as frozen as the model
                encoder: Any = self.learner.encoder
                stack.enter_context(encoder.lowered())
            for first, end in self._pieces(len(keys)):
                rows = batch.rows(first, end)
                found.append(self.attack.perturb(self._objective(rows), rows.pixels, keys=keys[first:end]))
        return found[0] if len(found) == 1 else torch.cat(found)

    def _objective(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        lift = _LIFT if self.how.precision == "fp16" else 1.0
        if lift == 1:
            return lambda points: self.method.inner(self.learner, points, batch)
        return lambda points: lift * self.method.inner(self.learner, points, batch)

    def learn(self, points: Tensor, batch: Batch) -> Tensor:
        """Gradients of the whole batch's mean loss in the parameters; returns this process's share of that mean."""
        self.optimizer.zero_grad(set_to_none=True)
        count = len(points) if batch.share is None else batch.share.of
        counts = batch.share is None or batch.share.counts
        mean = torch.zeros((), device=self.device)
        pieces = list(self._pieces(len(points)))
        for first, end in pieces:
            last = end == pieces[-1][1]
            with self._synchronised(last):
                with autocast(self.device, self.how.precision), self._sparing():
                    loss = self.losses(points[first:end], batch.rows(first, end)).sum() / count
                self._backward(loss if self.world.alone else loss * (self.world.size if counts else 0), last)
            mean = mean + loss.detach()
        return mean if counts else torch.zeros_like(mean)

    def _backward(self, loss: Tensor, last: bool) -> None:
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        try:
            torch.autograd.backward(scaled)
        except Exception as error:
            if not (ran_out(error) and last and isinstance(self.losses, DistributedDataParallel)):
                raise
            # The others may have begun to add up: this step cannot be begun again by one of them.
            raise RunError(f"out of memory in the learner's pass; {self._advice(error)}") from None

    def descend(self, mean: Tensor) -> float:
        """The optimizer's step, down the gradients; returns the loss of the whole batch.

        A gradient that is not finite would ruin the weights, and the next checkpoint with them: then no step is taken,
        and the loss is NaN. In fp16 it may only say that the loss was scaled too far: the scaling learns from it.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        slope = torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
        bad = (~slope.isfinite()).to(mean.dtype).reshape(1)
        told = total(torch.cat([mean.reshape(1), bad]))
        value, bad_ones = (float(number) for number in told)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return value if self.scaler.get_scale() >= _LOWEST_SCALE else math.nan
        if bad_ones or not math.isfinite(value):
            return math.nan if bad_ones else value
        self.optimizer.step()
        return value

    @torch.no_grad()
    def measured(self, points: Tensor, part: Part) -> dict[str, float]:
        """Zero-shot accuracy on the whole batch, clean and under the training attack, whatever the loss is.

        There is no ``robust_accuracy`` where nothing attacked these images: the method has no adversary, or the
        adversary began at views that are not the images. What a random model draws here the next step draws again: how
        often a run is measured must not change its weights.
        """
        attacked = self.method.adversarial and self.method.views(part.pixels, part.keys) is part.pixels
        right = torch.zeros(2, device=self.device)
        drawn_on = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(drawn_on), autocast(self.device, self.how.precision):
            for first, end in self._pieces(len(points)):
                for i, pixels in enumerate((part.pixels, points) if attacked else (part.pixels,)):
                    right[i] += self.learner.logits(pixels[first:end]).argmax(1).eq(part.truth[first:end]).sum()
        clean, robust = (total(right if part.share.counts else 0 * right) / part.share.of).tolist()
        return {"clean_accuracy": clean} | ({"robust_accuracy": robust} if attacked else {})

    def distribute(self, part: Part) -> None:
        """From here on gradients are averaged over the processes; ``part`` is any part of a batch.

        Whether every parameter gets a gradient is found out here: a wrapper that waits for one that does not come would
        stop, and one that looks for them in every step is slower.
        """
        batch = self.prepared(part)
        with autocast(self.device, self.how.precision), self._sparing():
            if not self.method.compares():
                batch = batch.rows(0, 1)
            losses = self.losses(batch.pixels, batch).sum()
        slopes = torch.autograd.grad(losses, list(self.parameters.values()), allow_unused=True)
        unused = torch.tensor([float(any(slope is None for slope in slopes))], device=self.device)
        find = bool(total(unused))
        self.losses = DistributedDataParallel(
            self.losses, find_unused_parameters=find, gradient_as_bucket_view=True, **_BUFFERS_STAY
        )

    def _pieces(self, rows: int) -> Iterator[tuple[int, int]]:
        at_once = self.rows or rows
        return ((first, min(first + at_once, rows)) for first in range(0, rows, at_once))

    def _sparing(self) -> AbstractContextManager[None]:
        return recomputed(self.learner.encoder) if self.how.checkpoint_activations else nullcontext()

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        if last or not isinstance(self.losses, DistributedDataParallel):
            return nullcontext()
        return self.losses.no_sync()

    def _halve(self, rows: int, error: Exception) -> None:
        """Fewer rows at once from here on, if that can help."""
        if not ran_out(error):
            raise error
        at_once = min(self.rows or rows, rows)
        if at_once == 1 or self.method.compares():
            raise RunError(f"out of memory with {_rows(at_once)} at once; {self._advice(error)}") from None
        self.rows = (at_once + 1) // 2
        warnings.warn(
            f"memory ran out with {_rows(at_once)} at once: from here on {self.rows} at once, which is slower and the "
            f"same up to rounding (micro_batch {self.rows} does so from the beginning)",
            stacklevel=4,
        )

    def _advice(self, error: Exception) -> str:
        ways = ["checkpoint_activations"] if not self.how.checkpoint_activations else []
        ways += ["a smaller batch_size"] if self.method.compares() else ["a smaller micro_batch"]
        return f"{', '.join(ways)}, precision bf16 or a smaller model need less ({str(error).splitlines()[0][:100]})"


def _rows(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"
