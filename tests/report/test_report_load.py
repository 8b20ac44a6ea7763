from __future__ import annotations

import pytest

from zsrobust.errors import RunError
from zsrobust.report import load_run, load_runs


def test_a_run_is_read_whole(run):
    loaded = load_run(run)
    assert [model.name for model in loaded.models] == ["tiny", "tiny-tecoa"]
    assert loaded.models[1].adapted_on == ("world-compositions",)
    assert loaded.tasks[1].follows_from == ("world-compositions",)
    assert loaded.threats == ("linf:1/255:native", "linf:4/255:native")
    assert len([r for r in loaded.records if r.attack == "clean"]) == 2 * 4 * 40
    assert len(loaded.pictures) == 4
    assert loaded.pictures[0].models[1].adversarial.startswith("data:image/png;base64,iVBOR")


def test_not_a_run(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"empty is not a run: it has no run.json"):
        load_run(tmp_path / "empty")
    with pytest.raises(RunError, match=r"nowhere is not a run: it is not a folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no run given"):
        load_runs([])


def test_the_same_folder_twice_is_read_once(run):
    assert len(load_runs([run, run.parent / "." / "run"])) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="zsrobust.run/9"), "has format 'zsrobust.run/9'; this version"),
        (lambda d: d.pop("format"), "has format 'none'"),
        (lambda d: d.pop("precision"), "run.json has no 'precision'"),
        (lambda d: d["tasks"][1].update(n="many"), r"run.json: tasks\[1\]: 'n' is 'many', not int"),
        (lambda d: d["tasks"][0].update(n=True), r"'n' is True, not int"),
        (lambda d: d["models"][0].update(adapted_on=[1]), "'adapted_on' is not a list of strings"),
        (lambda d: d.update(models=[3]), r"models\[0\] is not a JSON object"),
        (lambda d: d.update(attacks=[]), "has no attack"),
        (lambda d: d["models"].pop(), "a record of model 'tiny-tecoa', which run.json does not have"),
        (lambda d: d["tasks"].pop(), "a record of task 'cifar10', which run.json does not have"),
        (lambda d: d.update(seeds=[7]), "a record of seed 0"),
        (lambda d: d["tasks"].append(d["tasks"][0]), "names a task twice"),
        (lambda d: d.update(flags=[{"txt": "?"}]), r"flags\[0\] has no 'text'"),
    ],
)
def test_a_wrong_run_json_is_one_line_that_names_the_place(run, edit, change, message):
    edit(run, change)
    with pytest.raises(RunError, match=message) as error:
        load_run(run)
    assert "\n" not in str(error.value)


def test_broken_json_and_no_records(run):
    (run / "records.jsonl").write_text("")
    with pytest.raises(RunError, match="has no records"):
        load_run(run)
    (run / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json is not valid JSON"):
        load_run(run)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../run.json", "is not a file name in that folder"),
        ("index.json", "is not a PNG picture"),
        ("gone.png", "cannot read"),
    ],
)
def test_pictures_come_from_the_folder_and_are_png(run, edit, name, message):
    edit(run / "pictures", lambda d: d["items"][0].update(clean_png=name), "index.json")
    with pytest.raises(RunError, match=message):
        load_run(run)


def test_pictures_are_checked(run, edit):
    edit(run / "pictures", lambda d: d["items"][0]["models"][0].update(clean_top=[["a"]]), "index.json")
    with pytest.raises(RunError, match=r"'clean_top' is not a list of \[class, probability\]"):
        load_run(run)
    edit(run / "pictures", lambda d: d.update(format="x"), "index.json")
    with pytest.raises(RunError, match="has format 'x'"):
        load_run(run)
