"""A recipe's cells, their jobs and keys, the choice of what is tuned, and what a bad recipe is told."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.study import small

from zsrobust.errors import ConfigError, DivergedError, ZSRobustError
from zsrobust.methods import METHODS
from zsrobust.study import options
from zsrobust.study.agenda import Agenda
from zsrobust.study.bench import HELD_OUT, Bench
from zsrobust.study.estimate import Clock, Forecast, in_words
from zsrobust.study.grid import cells, combinations
from zsrobust.study.plan import Plan, Search
from zsrobust.study.recipe import StudyRecipe, parse, read
from zsrobust.study.runner import study
from zsrobust.study.store import Job, Outcome, Store
from zsrobust.study.workers import Several

Content = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def files(folder: Path) -> tuple[Path, Path]:
    from tests.encoders.small import save_clip

    return save_clip(folder / "clip"), small.images(folder)


@pytest.fixture
def content(files: tuple[Path, Path]) -> Content:
    return small.content(*files)


MINI: Content = {
    "evaluate": {"tasks": ["digits"]},
    "axes": {
        "loss": {"TeCoA": {"method_options": {"scale": 20}}, "standard": {"method": "standard"}},
        "images": {300: {"limit": 300}, "all": {}},
    },
}


def recipe(**changes: Any) -> StudyRecipe:
    return parse(MINI | changes, name="mini")


def test_cells_are_the_product_and_more() -> None:
    found = recipe(
        seeds=[0, 3],
        without=[{"loss": "standard", "images": 300}],
        also=[{"levels": {"loss": "TeCoA", "images": "few"}, "adapt": {"limit": 30}}],
        interpolate=[0.5, 0.25],
    )
    made = combinations(found)
    assert [tuple(one.levels.values()) for one in made] == [
        ("TeCoA", "300"), ("TeCoA", "all"), ("standard", "all"), ("TeCoA", "few"),
    ]  # fmt: skip
    assert [one.adapt["limit"] for one in made] == [300, None, None, 30]
    grid = cells(found, made)
    assert len(grid) == 1 + 4 * 2 * 3
    assert [cell.describe() for cell in grid[:4]] == [
        "unadapted", "TeCoA, images 300, seed 0, α 0.25", "TeCoA, images 300, seed 0, α 0.5",
        "TeCoA, images 300, seed 0",
    ]  # fmt: skip


def test_another_method_does_not_inherit_options() -> None:
    made = combinations(recipe(adapt={"method_options": {"scale": 7}}))
    assert [one.adapt["method_options"] for one in made] == [{"scale": 20}, {"scale": 20}, {}, {}]
    own = options.merged({"method": "tecoa", "method_options": {"scale": 7}}, {"method": "tecoa"})
    assert own["method_options"] == {"scale": 7}


TUNE = {"option": "lr", "seed": 0, "images": 9, "values": [1e-3]}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"axis": {}}, "mini: unknown key 'axis'; did you mean 'axes'?"),
        ({"adapt": {"epoch": 2}}, "mini: adapt: unknown option of adapt 'epoch'; did you mean 'epochs'?"),
        ({"adapt": {"epochs": "two"}}, "mini: adapt: epochs must be a whole number, not 'two'"),
        ({"adapt": {"labels": "soft-ish"}}, "mini: adapt: labels must be one of true, hard, soft, none, not"),
        ({"adapt": {"seed": 1}}, "mini: adapt: unknown option of adapt 'seed'"),
        ({"evaluate": {"tasks": ["digits"], "limit": 0.5}}, "mini: evaluate: limit must be a whole number or null"),
        ({"evaluate": {}}, "mini: evaluate.tasks names no task"),
        ({"axes": {"loss": {"a": {"methd": "x"}}}}, "mini: level a of loss: unknown option of adapt 'methd'; did you"),
        ({"without": [{"los": "TeCoA"}]}, "mini: without 1: unknown axis 'los'; did you mean 'loss'?"),
        ({"without": [{"loss": "TeCo"}]}, "mini: without 1: unknown level of loss 'TeCo'; did you mean 'TeCoA'?"),
        ({"without": [{"images": 300}, {"images": "all"}]}, "mini: no combination is left"),
        ({"also": [{"levels": {"loss": "TeCoA"}}]}, "mini: also 1: levels must name one level for each of loss"),
        ({"also": [{"levels": {"loss": "TeCoA", "images": "few"}}]}, "mini: also 1: 'few' is no level of an axis"),
        ({"also": [{"levels": {"loss": "TeCoA", "images": 300}}]}, "mini: also: TeCoA, 300 is a cell already"),
        ({"seeds": [0, 0]}, "mini: seeds is a list of different whole numbers"),
        ({"seeds": [-1]}, "mini: a seed must be a whole number of at least 0, not -1"),
        ({"interpolate": [0.5, 1]}, "mini: interpolate takes weights between 0 and 1, both excluded, not 1"),
        ({"tune": TUNE | {"option": "ln"}}, "mini: tune: unknown option of adapt 'ln'; did you mean 'lr'?"),
        ({"tune": TUNE | {"values": {"loss": {"TeCoA": [1e-3]}}}}, "mini: tune: no values for loss 'standard'"),
        ({"tune": TUNE | {"values": {"loss": [1e-3]}}}, "mini: tune: values of loss holds its levels, each with"),
        ({"tune": TUNE | {"values": {"way": {}}}}, "mini: tune: values differ by the level of one axis (loss, images)"),
        ({"tune": TUNE | {"from": "other"}}, "mini: tune has either values, or the study that they are taken from"),
        ({"tune": TUNE | {"values": ["1e-3"]}}, "mini: tune: values is a list of different numbers"),
        ({"tune": TUNE, "adapt": {"lr": 1e-4}}, "mini: adapt, or --adapt.lr, sets lr, which tune chooses: leave one"),
        ({"tune": TUNE, "axes": {"rate": {"slow": {"lr": 1e-5}}}}, "mini: level slow of rate sets lr, which tune"),
        (
            {"tune": TUNE, "also": [{"levels": {"loss": "TeCoA", "images": "few"}, "adapt": {"limit": 9, "lr": 1e-3}}]},
            "mini: also 1 sets lr, which tune chooses: leave one out",
        ),
        ({"tune": TUNE | {"option": "method_options.scale"}}, "mini: level TeCoA of loss sets method_options.scale,"),
        ({"axes": {"a": {"x": {"lr": 1e-3}}, "b": {"y": {"lr": 1e-4}}}}, "mini: level x of a and mini: level y"),
        ({"claims": [{"claim": "c", "higher": {"loss": "TeCo"}, "lower": "unadapted"}]}, "mini: unknown level of"),
        ({"figures": [{"kind": "scater"}]}, "mini: "),
    ],
)  # fmt: skip
def test_a_bad_recipe_is_one_line(changes: Content, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        combinations(recipe(**changes))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def job(key: str, kind: Any = "adapted", adapted: str | None = None) -> Job:
    return Job(kind, key, {}, {}, adapted=adapted, units=2.0)


def known(outcomes: Mapping[str, Outcome]) -> Callable[[Job], Outcome | None]:
    return lambda one: outcomes.get(one.key)


def scored(robust: float) -> Outcome:
    return Outcome(1.0, {HELD_OUT[0]: 0.9, HELD_OUT[1]: robust})


@pytest.mark.parametrize(
    ("outcomes", "chosen"),
    [
        ([scored(0.2), scored(0.4), scored(0.3)], 0.2),
        ([scored(0.2), scored(0.4), scored(0.4)], 0.2),
        ([scored(0.2), scored(0.2), Outcome(diverged="NaN")], 0.1),
        ([Outcome(diverged="NaN"), scored(0.0), scored(0.0)], 0.2),
        ([scored(0.2), None, scored(0.3)], None),
    ],
)
def test_the_most_robust_value_is_chosen_and_the_smaller_of_equals(
    outcomes: list[Outcome | None], chosen: float | None
) -> None:
    search = Search("lr", 0, 9, {0.1: job("a"), 0.2: job("b"), 0.3: job("c")}, None)
    ended = {key: one for key, one in zip("abc", outcomes, strict=True) if one is not None}
    assert search.chosen(known(ended)) == chosen


def test_nothing_is_chosen_where_all_diverged() -> None:
    search = Search("lr", 0, 9, {0.1: job("a")}, None)
    with pytest.raises(ConfigError, match="diverged at every lr"):
        search.chosen(known({"a": Outcome(diverged="NaN")}))


def plan_of(recipe: StudyRecipe, folder: Path, threads: int = 1) -> Plan:
    bench, clock = Bench(Store(folder / "none"), "cpu"), Clock(1)
    return Plan(
        recipe, folder / "x", bench=bench, clock=clock, threads=threads, wanted=lambda _: True, overrides={}
    )  # fmt: skip


def jobs(plan: Plan, outcome: Callable[[Job], Outcome | None]) -> list[Job]:
    found = [plan.resolve(cell, outcome) for cell in plan.cells]
    return [one for resolved in found if resolved is not None for one in resolved.jobs]


def keys(plan: Plan, outcome: Callable[[Job], Outcome | None]) -> list[str]:
    return [one.key for one in jobs(plan, outcome)]


def test_the_winning_run_of_tuning_is_a_cell(content: Content, folder: Path) -> None:
    plan = plan_of(parse(content, name="a"), folder)
    assert plan.resolve(plan.cells[1], known({})) is None
    trials = next(iter(plan.searches.values())).trials
    outcomes = {trials[1e-3].key: scored(0.1), trials[1e-2].key: scored(0.2)}
    first, other = (
        next(cell for cell in plan.cells if cell.levels == {"loss": "TeCoA"} and cell.seed == seed) for seed in (0, 1)
    )
    resolved = plan.resolve(first, known(outcomes))
    assert resolved is not None
    assert resolved.adapted is not None
    assert (resolved.adapted.key, resolved.tuned) == (trials[1e-2].key, {"lr": 1e-2})
    again = plan.resolve(other, known(outcomes))
    assert again is not None
    assert again.adapted is not None
    assert again.adapted.key not in outcomes
    assert again.adapted.settings["held_out"] is None


def test_studies_share_what_is_the_same_and_nothing_else(content: Content, folder: Path) -> None:
    del content["tune"]
    base = set(keys(plan_of(parse(content, name="a"), folder), known({})))
    same = content | {"title": "Another", "adapt": content["adapt"] | {"log_every": 7, "threat": "linf:4/255:native"}}
    assert set(keys(plan_of(parse(same, name="b"), folder), known({}))) == base
    differ = [
        {"adapt": content["adapt"] | {"lr": 2e-3}},
        {"adapt": content["adapt"] | {"limit": 6}},
        {"adapt": content["adapt"] | {"template": ["one {}"]}},
        {"adapt": content["adapt"] | {"tuning": "layernorm"}},
        {"adapt": content["adapt"] | {"steps": 3}},
    ]
    unadapted = keys(plan_of(parse(content, name="a"), folder), known({}))[0]
    for changes in differ:
        assert set(keys(plan_of(parse(content | changes, name="c"), folder), known({}))) & base == {unadapted}
    assert set(keys(plan_of(parse(content, name="d"), folder, threads=2), known({}))) & base == {unadapted}
    evaluated = content | {"evaluate": content["evaluate"] | {"attacks": ["pgd:3"]}}
    shared = set(keys(plan_of(parse(evaluated, name="e"), folder), known({}))) & base
    assert len(shared) == 4
    assert unadapted not in shared


def test_a_key_knows_another_device_than_the_cpu(
    content: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del content["tune"]
    found = parse(content, name="a")
    base = plan_of(found, folder)
    assert all("device" not in job.content for job in jobs(base, known({})))
    monkeypatch.setattr("zsrobust.study.plan.device_of", lambda _: torch.device("cuda", 1))
    there = plan_of(found, folder)
    assert {job.content["device"] for job in jobs(there, known({}))} == {"cuda"}
    assert not set(keys(there, known({}))) & set(keys(base, known({})))


def test_tuning_from_another_study(content: Content, folder: Path) -> None:
    (folder / "small.yaml").write_text(yaml.safe_dump(content))
    mine = content | {"tune": {"from": "small"}, "axes": {"eps": {"1": {"threat": "linf:1/255"}, "4": {}}}}
    plan = plan_of(parse(mine, name="mine", path=folder / "mine.yaml"), folder)
    theirs = plan_of(parse(content, name="small"), folder)
    searches, (tecoa, clean) = list(plan.searches.values()), list(theirs.searches.values())
    assert [search.source for search in searches] == ["small", "small"]
    assert [[one.key for one in s.trials.values()] for s in searches] == [[j.key for j in tecoa.trials.values()]] * 2
    assert len(clean.trials) == 1
    other = content | {"tune": {"from": "small", "option": "weight_decay"}, "adapt": content["adapt"] | {"lr": 1e-4}}
    with pytest.raises(ConfigError, match=r"^other: tune: from: study 'small' tunes lr, not weight_decay$"):
        plan_of(parse(other, name="other", path=folder / "other.yaml"), folder)
    alone = content | {"tune": {"from": "small"}, "axes": {}, "adapt": content["adapt"] | {"method": "coadv"}}
    with pytest.raises(ConfigError, match="small has nothing with method coadv and tuning full"):
        plan_of(parse(alone, name="alone", path=folder / "alone.yaml"), folder)


@pytest.mark.parametrize(
    ("adapt", "line"),
    [
        ({"method": "teco"}, "unknown method 'teco'"),
        ({"tuning_options": {"cout": 2}}, "unknown full option 'cout'"),
        ({"threat": "linf:4"}, "ε = 4 is ambiguous"),
        ({"labels": "none"}, "method 'tecoa' needs labels"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"task": "dgits"}, "unknown task 'dgits'; did you mean 'digits'?"),
        ({"tuning": "last-blocks", "tuning_options": {"count": 90}}, "last-blocks: count = 90, but"),
        ({"method": "imgcoadv", "batch_size": 1}, "imgcoadv compares images of a batch: it needs at least 2, not 1"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(
    content: Content, folder: Path, adapt: Content, line: str
) -> None:
    del content["tune"]
    found = parse(content | {"axes": {"way": {"mine": {"lr": 1e-4}}}, "adapt": content["adapt"] | adapt}, name="a")
    with pytest.raises(ZSRobustError) as caught:
        study([found], run=folder / "refused", store=folder / "refused", jobs=1)
    assert str(caught.value).startswith(f"a: mine: {line}")
    assert not (folder / "refused").exists()


def test_agenda_does_each_job_once_and_in_order(tmp_path: Path) -> None:
    agenda = Agenda(Store(tmp_path))
    adapted, one, other = job("a"), job("b", "evaluated", "a"), job("c", "evaluated", "a")
    agenda.add([adapted, one])
    agenda.add([adapted, other])
    assert agenda.next() == adapted
    agenda.started.add("a")
    assert agenda.next() is None
    agenda.end(adapted, scored(0.1))
    assert agenda.next() == one
    agenda.end(adapted, Outcome(diverged="NaN"))
    assert agenda.next() is None
    assert agenda.ended["c"].failure == "NaN"
    assert not agenda.open()
    late = job("d", "evaluated", "a")  # wanted only now: its model is known not to come
    agenda.add([adapted, late])
    assert agenda.next() is None
    assert agenda.ended["d"].failure == "NaN"


def test_a_forecast_learns_from_jobs_of_its_kind() -> None:
    forecast = Forecast()
    assert forecast.seconds([job("a"), job("b")]) == 4.0
    for seconds in (4.0, 6.0, 100.0):
        forecast.learn(job("a"), Outcome(seconds))
    forecast.learn(job("a"), Outcome(9.0, error="no"))
    forecast.learn(job("a"), Outcome(None))
    assert forecast.seconds([job("b"), job("c", "evaluated")]) == 6.0 + 2.0
    assert [in_words(s) for s in (40, 700, 12600)] == ["40 s", "12 min", "3.5 h"]


def test_held_out_images_are_scored_once_whatever_the_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "_seconds", lambda *_: 1.0)
    how = {"steps": 2, "epochs": 3, "attention": "sdpa", "precision": "float32"}
    task: Any = range(10)
    model: Any = None
    alone = Clock(1).adaptation(model, how, METHODS["tecoa"](), task, None)
    assert alone == 3 * 10 * (1 + 2)
    assert Clock(1).adaptation(model, how, METHODS["tecoa"](), task, task) == pytest.approx(alone + 10 * (10 + 2 / 3))


def test_an_override_of_one_option_keeps_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "adapt: {tuning: pixel-token-prompt, tuning_options: {pixel: {width: 3}, token: {count: 2, depth: deep}}}\n"
        "evaluate: {tasks: [digits]}\n"
    )
    found = read(str(tmp_path / "a.yaml"), adapt={"tuning_options": {"token": {"count": 4}}})
    assert found.adapt["tuning_options"] == {"pixel": {"width": 3}, "token": {"count": 4, "depth": "deep"}}


def test_one_cell_that_fails_does_not_stop_the_others(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del content["tune"], content["interpolate"]
    adapt = Bench._adapt

    def failing(self: Bench, job: Job, folder: Path) -> None:
        if job.settings["method"] == "clean" and job.settings["seed"] == 0:
            raise DivergedError("the loss of step 1 is nan; there is no checkpoint yet; try a smaller lr")
        if job.settings["method"] == "clean":
            raise RuntimeError("odd")
        adapt(self, job, folder)

    found = parse(content, name="a")
    with monkeypatch.context() as patch:
        patch.setattr(Bench, "_adapt", failing)
        failures = study([found], run=tmp_path / "runs", store=tmp_path / "store", jobs=1)
    assert [(one.what, one.reason.partition(" (")[0]) for one in failures] == [
        ("clean, seed 0", "the loss of step 1 is nan"), ("clean, seed 1", "a bug: RuntimeError: odd"),
    ]  # fmt: skip
    assert "6/8  a: TeCoA, seed 1  evaluated" in capsys.readouterr().err
    # A bug may be mended, and a loss that is NaN would be NaN again.
    again = study([found], run=tmp_path / "runs", store=tmp_path / "store", jobs=1)
    assert [one.what for one in again] == ["clean, seed 0"]


def test_what_another_process_computed_meanwhile_is_in_the_last_results(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del content["tune"], content["interpolate"]
    found = parse(content | {"seeds": [0]}, name="a")
    do = Bench.do

    def slow(self: Bench, job: Job) -> Outcome:
        with monkeypatch.context() as patch:
            patch.setattr(Bench, "do", do)
            assert study([found], run=tmp_path / "other", store=tmp_path / "store", jobs=1) == []
        return do(self, job)

    monkeypatch.setattr(Bench, "do", slow)
    only = {"loss": "TeCoA"}
    assert study([found], run=tmp_path / "runs", store=tmp_path / "store", jobs=1, only=only) == []
    cells = json.loads((tmp_path / "runs" / "a" / "cells.json").read_text())["cells"]
    assert [cell["levels"] for cell in cells] == [{}, {"loss": "TeCoA"}, {"loss": "clean"}]


def test_a_worker_that_dies_fails_its_job_alone(tmp_path: Path) -> None:
    several = Several(1, threads=1, store=tmp_path, device="cpu")
    several.start(job("a"))
    (worker,) = several._workers
    assert worker.process.pid is not None
    os.kill(worker.process.pid, signal.SIGKILL)
    ended, outcome = several.next()
    assert ended.key == "a"
    assert "ended by SIGKILL" in str(outcome.failure)
    assert several.free()
    several.dismiss()
