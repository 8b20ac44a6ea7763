"""From cells to jobs: what is tuned, what has to be adapted and evaluated, and by which key it is found again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zsrobust
from zsrobust.api import resolve_attacks
from zsrobust.attacks.binding import Asked
from zsrobust.attacks.transfer import Transfer
from zsrobust.encoders import Encoder
from zsrobust.errors import ConfigError, ZSRobustError
from zsrobust.evaluation import device_of
from zsrobust.jobs import expand_threats, make_method, make_tuning, training_attack
from zsrobust.methods.targets import check, check_batches
from zsrobust.recipe import Recipe
from zsrobust.study import options
from zsrobust.study.bench import HELD_OUT, Bench
from zsrobust.study.estimate import Clock
from zsrobust.study.grid import Cell, Combination, cells, combinations
from zsrobust.study.recipe import StudyRecipe, Tune, read
from zsrobust.study.store import Job, Outcome, key_of
from zsrobust.tasks import Task
from zsrobust.threat import Threat, parse_eps

Known = Callable[[Job], Outcome | None]
"""How a job ended; None: not yet."""


@dataclass(frozen=True)
class Search:
    """The tuning of one combination.

    Attributes:
        option: What is tuned.
        seed: Of the runs.
        images: Held out.
        trials: Value → its adaptation; ascending.
        source: The study whose budget it is; None: its own.
        score: What decides: robust accuracy on held-out images, or clean where the method has no adversary.
    """

    option: str
    seed: int
    images: int
    trials: Mapping[float, Job]
    source: str | None
    score: str = HELD_OUT[1]

    def chosen(self, known: Known) -> float | None:
        """The value with the highest score on held-out images, the smaller of equals; None: too early to say.

        One with which training diverged is below all others: it has no model.

        Raises:
            ConfigError: no run gave a score.
        """
        ended = {value: known(job) for value, job in self.trials.items()}
        scores: dict[float, float] = {}
        for value, outcome in ended.items():
            if outcome is None:
                return None
            if outcome.error is not None:
                raise ConfigError(f"tuning: {self.option} {value:g} failed: {outcome.error}")
            scores[value] = outcome.held_out.get(self.score, 0.0) if outcome.diverged is None else -math.inf
        if all(score == -math.inf for score in scores.values()):
            raise ConfigError(f"tuning: training diverged at every {self.option} ({', '.join(map(str, scores))})")
        return max(sorted(scores), key=lambda value: scores[value])


@dataclass(frozen=True)
class Resolved:
    """The jobs behind a cell.

    Attributes:
        adapted: Makes the model; None: the model is the base.
        evaluated: Measures it.
        tuned: What was chosen for it.
        error: Why there are no jobs.
    """

    adapted: Job | None = None
    evaluated: Job | None = None
    tuned: Mapping[str, float] | None = None
    error: str | None = None

    @property
    def jobs(self) -> list[Job]:
        """In their order."""
        return [job for job in (self.adapted, self.evaluated) if job is not None]


class Plan:
    """A study's cells and their jobs.

    Args:
        recipe: The study.
        folder: Where its results go.
        bench: Opens models and tasks.
        clock: Predicts times.
        threads: Of each worker: sums round by them.
        wanted: Which cells are to be computed now.
        further: Seeds of cells that are only looked for: earlier calls had them, the recipe has not.
        overrides: What replaced options of adapt, also for a study that tuning is taken from.

    Raises:
        ZSRobustError: something in the recipe cannot be done.
    """

    def __init__(
        self,
        recipe: StudyRecipe,
        folder: Path,
        *,
        bench: Bench,
        clock: Clock,
        threads: int,
        wanted: Callable[[Cell], bool],
        overrides: Mapping[str, Any],
        further: Sequence[int] = (),
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self._bench, self._clock, self._threads = bench, clock, threads
        self.combinations = combinations(recipe)
        self.cells = cells(recipe.with_seeds(further), self.combinations)
        self.wanted = [cell for cell in self.cells if wanted(cell)]
        if not self.wanted:
            raise ConfigError(f"{recipe.name}: no cell is left with these --seeds and --only")
        self.store = bench.store
        self._resolved: dict[Cell, Resolved] = {}
        # Also of cells that are not wanted now: those that have ended stay in the results.
        self.searches: dict[Combination, Search] = {}
        for combination in self.combinations:
            if recipe.tune is not None:
                self.searches[combination] = self._search(combination, recipe.tune, overrides)
            else:
                with _about(recipe, combination):
                    self._adaptation({**combination.adapt, "seed": 0, "held_out": None})
        self.adapted_on = sorted({bench.training(combination.adapt).name for combination in self.combinations})

    @property
    def wanted_searches(self) -> dict[Combination, Search]:
        """The tuning that wanted cells wait for."""
        wanted = {cell.combination for cell in self.wanted}
        return {combination: search for combination, search in self.searches.items() if combination in wanted}

    def resolve(self, cell: Cell, known: Known) -> Resolved | None:
        """The cell's jobs; None while its tuning goes on."""
        if cell in self._resolved:
            return self._resolved[cell]
        if cell.combination is None:
            found = Resolved(evaluated=self._evaluation(str(self.recipe.adapt["model"]), None, None))
        else:
            try:
                tuned = self._tuned(cell.combination, known)
            except ConfigError as problem:
                tuned, found = None, Resolved(error=str(problem))
            else:
                if tuned is None:
                    return None
                found = self._jobs(cell, cell.combination, tuned)
        self._resolved[cell] = found
        return found

    def rough(self, cell: Cell) -> list[Job]:
        """Jobs for a cell whose tuning goes on: they take as long as the real ones, and have other keys."""
        assert cell.combination is not None
        jobs, search = self._jobs(cell, cell.combination, {}), self.searches[cell.combination]
        # One of the tuning runs is the model of this cell.
        tried = cell.seed == search.seed and search.source is None
        return jobs.jobs[1:] if tried else jobs.jobs

    def tuning(self, known: Known) -> list[dict[str, Any]]:
        """What was tried for each combination, for ``cells.json``."""
        rows: list[dict[str, Any]] = []
        for combination, search in self.searches.items():
            try:
                chosen = search.chosen(known)
            except ConfigError:
                chosen = None
            for value, job in search.trials.items():
                outcome = known(job)
                if outcome is None:
                    continue
                rows.append(
                    {
                        "levels": dict(combination.levels), "option": search.option, "value": value,
                        "held_out_clean": outcome.held_out.get(HELD_OUT[0]),
                        "held_out_robust": outcome.held_out.get(HELD_OUT[1]),
                        "chosen": value == chosen, "diverged": outcome.diverged is not None,
                        "from": search.source, "seconds": outcome.seconds, "error": outcome.error,
                    }
                )  # fmt: skip
        return rows

    def settings(self, cell: Cell, tuned: Mapping[str, float]) -> dict[str, Any]:
        """All options of the cell's adaptation."""
        assert cell.combination is not None
        search = self.searches.get(cell.combination)
        # The tuning run of this value and seed is the cell's own adaptation, if it is asked for the same scores.
        images = search.images if search is not None and cell.seed == search.seed else None
        return _with({**cell.combination.adapt, "seed": cell.seed, "held_out": images}, tuned)

    def _tuned(self, combination: Combination, known: Known) -> dict[str, float] | None:
        if self.recipe.tune is None:
            return {}
        search = self.searches[combination]
        value = search.chosen(known)
        return None if value is None else {search.option: value}

    def _jobs(self, cell: Cell, combination: Combination, tuned: Mapping[str, float]) -> Resolved:
        adapted = self._adaptation(self.settings(cell, tuned))
        evaluated = self._evaluation(str(combination.adapt["model"]), adapted, cell.alpha)
        return Resolved(adapted, evaluated, tuned or None)

    def _search(self, combination: Combination, tune: Tune, overrides: Mapping[str, Any]) -> Search:
        adapt: Mapping[str, Any] = combination.adapt
        source = None
        if tune.source is not None:
            beside = self.recipe.path.expanduser().parent if self.recipe.path is not None else None
            other = read(tune.source, beside=beside, adapt=overrides)
            if other.tune is None or other.tune.source is not None:
                raise ConfigError(f"{self.recipe.name}: tune: from: study '{other.name}' does not tune by itself")
            if other.tune.option != tune.option:
                raise ConfigError(
                    f"{self.recipe.name}: tune: from: study '{other.name}' tunes {other.tune.option}, not {tune.option}"
                )
            like = _most_alike(combination, combinations(other), f"{self.recipe.name}: tune: from: {other.name}")
            source, tune, adapt, values = other.name, other.tune, like.adapt, other.tune.values_for(like.levels)
        else:
            values = tune.values_for(combination.levels)
        trial = {**adapt, "seed": tune.seed, "held_out": tune.images}
        with _about(self.recipe, combination):
            trials = {value: self._adaptation(_with(trial, {tune.option: value})) for value in sorted(values)}
        adversarial = make_method(adapt["method"], adapt["method_options"]).adversarial
        return Search(tune.option, tune.seed, tune.images, trials, source, HELD_OUT[1 if adversarial else 0])

    def _adaptation(self, settings: Mapping[str, Any]) -> Job:
        _check_fixed(settings, "batch_size", "attention")
        task, held_out = self._bench.training(settings), self._bench.held_out(settings)
        how = {name: settings[name] for name in Recipe.__dataclass_fields__}
        recipe = Recipe(**how)
        method = make_method(settings["method"], settings["method_options"])
        tuning = make_tuning(settings["tuning"], settings["tuning_options"])
        check(method, recipe.labels)
        check_batches(method, recipe.size, len(task))
        ball = Threat.parse(settings["threat"])
        model = self._bench.model(settings["model"], settings["attention"])
        self._bench.fits(tuning, model)
        content = {
            "zsrobust": zsrobust.__version__,
            "model": self._bench.fingerprint(model),
            "task": _identity(task),
            "held_out": None if held_out is None else _identity(held_out),
            "threat": ball.describe(),
            "attack": dict(training_attack(ball, settings["steps"], settings["step_size"]).describe()),
            "method": dict(method.describe()),
            "tuning": dict(tuning.describe()),
            "attention": settings["attention"],
            "threads": self._threads,
            **recipe.deciding(),
            **_compiled(settings),
            **_device(model),
        }
        units = self._clock.adaptation(model, settings, method, task, held_out)
        return Job("adapted", key_of(content), content, settings, base=settings["model"], units=units)

    def _evaluation(self, base: str, adapted: Job | None, alpha: float | None) -> Job:
        settings = self.recipe.evaluate
        _check_fixed(settings, "rows", "attention")
        model = self._bench.model(base, settings["attention"])
        tasks = self._bench.evaluation(settings)
        balls = expand_threats(
            [settings["threat"]] if isinstance(settings["threat"], str) else settings["threat"],
            settings["eps"],
            settings["space"],
        )
        budget = {name: settings[name] for name in ("steps", "restarts", "targets", "queries")}
        size = settings["step_size"]
        budget["step_size"] = None if size is None else parse_eps(size, "step_size")
        attacks = resolve_attacks(settings["attacks"], balls, mode=settings["mode"], **budget)
        seeds = [settings["seed"]] if isinstance(settings["seed"], int) else list(settings["seed"])
        content = {
            "zsrobust": zsrobust.__version__,
            "model": self._bench.fingerprint(model),
            "adapted": adapted and adapted.key,
            "alpha": alpha,
            "name": _name(model.name, adapted, alpha),
            "tasks": [_identity(task) for task in tasks],
            "attacks": settings["attacks"],
            "threats": [ball.describe() for ball in balls],
            "budget": budget,
            "seeds": seeds,
            **{name: settings[name] for name in ("mode", "rows", "on_bad_image", "attention")},
            **self._sources(attacks, settings["attention"]),
            **_compiled(settings),
            **_device(model),
        }
        units = self._clock.evaluation(model, settings, attacks, tasks) * len(seeds)
        key = adapted.key if adapted is not None else None
        return Job("evaluated", key_of(content), content, settings, base=base, adapted=key, alpha=alpha, units=units)

    def _sources(self, attacks: Sequence[Asked], attention: str) -> dict[str, list[str]]:
        """The models that transfer attacks come from: a name says nothing about weights."""
        names = {attack.called for attack in attacks if isinstance(attack, Transfer)}
        prints = [self._bench.fingerprint(self._bench.model(name, attention)) for name in sorted(names)]
        return {"sources": prints} if prints else {}


def _check_fixed(settings: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if settings[name] == "auto":
            raise ConfigError(
                f"{name} auto would be found for each cell by itself; a study compares like with like: name one"
            )


def _compiled(settings: Mapping[str, Any]) -> dict[str, bool]:
    """An option that came later: left as it was, it changes no key."""
    return {"compile": True} if settings["compile"] else {}


def _device(model: Encoder) -> dict[str, str]:
    """The kind of device, which rounds in its own way; a CPU is not named, and changes no key."""
    kind = device_of(model).type
    return {} if kind == "cpu" else {"device": kind}


@contextmanager
def _about(recipe: StudyRecipe, combination: Combination) -> Iterator[None]:
    """Says which combination a mistake is in."""
    try:
        yield
    except ZSRobustError as problem:
        where = ": ".join([recipe.name, *([", ".join(combination.levels.values())] if combination.levels else [])])
        raise ConfigError(f"{where}: {problem}") from None


def _identity(task: Task) -> dict[str, Any]:
    return {"name": task.name, "fingerprint": task.fingerprint, "templates": list(task.templates)}


def _name(base: str, adapted: Job | None, alpha: float | None) -> str:
    """What the records call the model."""
    if adapted is None:
        return base
    tuning = adapted.settings["tuning"]
    way = "" if tuning == "full" else f"+{tuning}"
    return f"{base}+{adapted.settings['method']}{way}" + ("" if alpha is None else f"@{alpha:g}")


def _with(settings: Mapping[str, Any], tuned: Mapping[str, float]) -> dict[str, Any]:
    result = dict(settings)
    for option, value in tuned.items():
        head, _, inner = option.partition(".")
        result[head] = {**result[head], inner: value} if inner else value
    return result


def _most_alike(wanted: Combination, others: Sequence[Combination], where: str) -> Combination:
    """The other study's combination with the same method and way, and most other options in common.

    Raises:
        ConfigError: there is none, or several are as close.
    """
    method, tuning = wanted.adapt["method"], wanted.adapt["tuning"]
    same = [one for one in others if (one.adapt["method"], one.adapt["tuning"]) == (method, tuning)]
    if not same:
        raise ConfigError(f"{where} has nothing with method {method} and tuning {tuning}: it needs values of its own")

    def common(one: Combination) -> int:
        return sum(one.adapt[name] == wanted.adapt[name] for name in options.defaults("adapt"))

    best = max(map(common, same))
    closest = [one for one in same if common(one) == best]
    if len(closest) > 1:
        names = " and ".join(f"({', '.join(one.levels.values())})" for one in closest[:2])
        raise ConfigError(f"{where}: {names} are equally close to ({', '.join(wanted.levels.values())})")
    return closest[0]
