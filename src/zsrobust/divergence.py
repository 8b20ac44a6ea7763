"""When training has gone wrong: a loss that is NaN or runs away, weights that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from zsrobust import checkpoint
from zsrobust.distributed import broadcast, world
from zsrobust.errors import DivergedError


class DivergenceGuard:
    """Stops a run whose loss is NaN or runs away.

    Running away: the moving mean of the loss (over about 50 steps) is more than 5 times its lowest value so far and
    above 5 nats. A healthy loss rises for a while under a growing learning rate, but not like that.
    """

    def __init__(self, state: Mapping[str, float], folder: Path | None) -> None:
        self.state = dict(state)
        self._folder = folder

    def check(self, loss: float, step: int) -> None:
        """Takes note of the loss of ``step``.

        Raises:
            DivergedError: it is NaN, infinite, or ran away.
        """
        if not math.isfinite(loss):
            raise DivergedError(f"the loss of step {step + 1} is {loss}; {self._advice()}")
        mean = 0.98 * self.state.get("mean", loss) + 0.02 * loss
        lowest = min(self.state.get("lowest", mean), mean)
        self.state = {"mean": mean, "lowest": lowest}
        if mean > 5 and mean > 5 * lowest:
            raise DivergedError(
                f"the loss runs away: {lowest:.3g} at its best, {mean:.3g} now (step {step + 1}); {self._advice()}"
            )

    def check_weights(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Looks at the weights after ``step`` steps: one step can take them from finite to infinite.

        Raises:
            DivergedError: one of them is NaN or infinite; they are not worth a checkpoint.
        """
        for name, parameter in parameters.items():
            if not bool(parameter.isfinite().all()):
                raise DivergedError(f"{name} is NaN or infinite after step {step}; {self._advice()}")

    def check_alike(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Whether the weights are the first process's after ``step`` steps: each could be training on its own.

        Raises:
            DivergedError: they are not.
        """
        if world().alone:
            return
        own = [float(parameter.detach().double().sum()) for parameter in parameters.values()]
        if own != broadcast(own):
            raise DivergedError(
                f"the weights of process {world().rank} are not those of process 0 after step {step}: the processes "
                "do not train one model (are all on the same kind of machine, with the same versions?)"
            )

    def _advice(self) -> str:
        last = checkpoint.latest(self._folder / "checkpoints") if self._folder is not None else None
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        return f"{kept}; try a smaller lr or a longer warmup"
