from __future__ import annotations

import json
import re
import tomllib
from copy import deepcopy
from importlib.resources import files

import pytest
from fake_run import ADAPTED, make_run
from fake_suite import lone, make_suite_run

from zsrobust.errors import RunError, UnknownName
from zsrobust.report import load_run, summarise
from zsrobust.report.html import html
from zsrobust.report.load import Model
from zsrobust.report.markdown import markdown
from zsrobust.report.quoting import WORDS, quotations, same_model
from zsrobust.report.references import EXTERNAL, PublishedModel, published, read, sources
from zsrobust.report.terminal import plain

TASKS = {file.name.removesuffix(".toml") for file in files("zsrobust").joinpath("tasks").iterdir()}
B32 = "openai/clip-vit-base-patch32"
LOADED = {"source": B32, "revision": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", "adapted_on": [], "license": "mit"}
THREAT = "linf:1/255:model"
PGD = "paper:pgd:100"
TECOA = PublishedModel(
    "TeCoA", bases=(B32,), method="tecoa", tuning="full", adapted_on="imagenet", eps="1/255", weights=("someone/tecoa",)
)
ADAPTATION = {
    "base": B32,
    "method": {"name": "tecoa", "scale": None},
    "tuning": {"name": "full"},
    "task": "imagenet",
    "images": 1000,
    "threat": "linf:1/255:native",
    "labels": "true",
    "attack": {"name": "pgd:2", "steps": 2},
    "epochs": 10,
    "lr": 1e-5,
    "seed": 0,
}


# ---- the data


def test_every_number_names_a_task_a_source_and_a_place_in_range():
    rows = published()
    assert len(rows) > 600
    for row in rows:
        where = f"{row.source.name}: {row.model.name}, {row.tasks}"
        assert set(row.tasks) <= {*TASKS, *EXTERNAL}, where
        assert bool(row.tasks) != bool(row.over), where
        assert row.mean or len(row.tasks) == 1, where
        assert 0 <= row.value <= 100, where
        assert row.source.title, where
        assert row.source.where, where
        assert (row.kind == "robust") == (row.attack is not None) == (row.norm == "linf"), where
        assert row.radius is None or row.radius in {e / 255 for e in (1, 2, 4)}, where
        assert len(row.spaces) == len(row.splits) == len(row.tasks), where
        assert row.model.bases or row.model.method, where


def test_only_what_was_read_in_a_paper_is_not_marked_secondary():
    assert {row.source.name for row in published() if row.source.seen == "paper"} == {"tga-zsr"}
    assert {row.source.seen for row in published()} == {"paper", "secondary"}


def test_the_means_of_the_tables_are_the_means_of_their_numbers():
    """A typing mistake, a swapped column or a lost one would show here."""
    checked = 0
    for mean in (row for row in published() if row.mean and row.tasks):
        what = (mean.source, mean.model, mean.kind, mean.eps, mean.attack)
        single = {
            row.tasks[0]: row.value
            for row in published()
            if not row.mean and (row.source, row.model, row.kind, row.eps, row.attack) == what
        }
        if not set(mean.tasks) <= single.keys():
            continue
        checked += 1
        found = sum(single[task] for task in mean.tasks) / len(mean.tasks)
        known_to_differ = re.search("as read average", mean.note)
        rounding = 0.06 if mean.source.name == "robustvlm-large" else 0.011
        assert (abs(found - mean.value) <= rounding) != bool(known_to_differ), (
            mean.source.name,
            mean.model.name,
            found,
        )
    assert checked == 19 + 13


def test_an_attack_is_theirs_with_its_restarts_only():
    attack = next(row.attack for row in published(source="robustvlm-large", kind="robust"))
    asked = [
        ("apgd:ce:restarts=5+apgd:dlr-t", 10),
        ("apgd:ce:restarts=5", 2),
        ("apgd:ce+apgd:dlr-t", 10),
        ("apgd:ce", 2),
    ]
    assert [attack.is_ours(*one) for one in asked] == [True, True, False, False]


@pytest.mark.parametrize(
    ("want", "value"),
    [
        ({"source": "zsrobust4foundationmodel", "method": "tecoa", "kind": "robust"}, [38.18, 32.00]),
        ({"source": "tga-zsr", "task": "cifar10", "method": "tecoa", "kind": "clean"}, [66.14]),
        ({"source": "robustvlm-large", "task": "pcam", "method": "fare", "eps": "4/255"}, [17.2, 50.2]),
        ({"source": "agft", "task": "eurosat"}, [16.25]),
    ],
)
def test_numbers_are_found_by_what_they_are_about(want, value):
    assert [row.value for row in published(**want)] == value


def test_sources_are_listed_and_an_unknown_one_is_named_with_the_nearest():
    names = [name for name, _ in sources()]
    assert names == sorted(names)
    assert {file.name for file in files("zsrobust").joinpath("references").iterdir()} == {f"{n}.toml" for n in names}
    assert all("\n" not in line and "number" in line for _, line in sources())
    with pytest.raises(UnknownName, match="did you mean 'tga-zsr'"):
        published(source="tga")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["tables"][0]["means"].update(clip=101), "101 is no accuracy"),
        (lambda d: d["tables"][0].update(colour=1), "unknown keys: colour"),
        (lambda d: d["tables"][0].update(values={"clip": [1.0]}), "1 values for 16 tasks"),
        (lambda d: d["tables"][1].pop("attack"), "needs an attack"),
        (lambda d: d.update(seen="somewhere"), "not one of paper, secondary"),
    ],
)
def test_a_broken_source_is_refused(change, message):
    data = tomllib.loads(files("zsrobust").joinpath("references", "sart-clip.toml").read_text())
    change(data)
    with pytest.raises(RunError, match=message):
        list(read("sart-clip", data))


# ---- which model it is


def adapted(**changes):
    how = deepcopy(ADAPTATION)
    for key, value in changes.items():
        how[key] = value
    told = LOADED | {"adapted_on": [how["task"]], "base": B32, "adaptation": how}
    return Model("mine", (how["task"],), "", told)


def test_a_model_adapted_in_the_same_way_is_the_same_model():
    assert same_model(adapted(), TECOA)
    assert same_model(adapted(epochs=1, images=50_000, lr=1e-4), TECOA)  # said with the number


def test_our_methods_as_they_are_by_default_are_those_that_numbers_were_published_for():
    from zsrobust.methods import METHODS

    known = {row.model.name + row.source.name: row.model for row in published() if row.model.method in METHODS}
    assert {model.method for model in known.values()} == {"standard", "tecoa", "fare", "pmg-aft", "tga-zsr", "agft"}
    for model in known.values():
        if model.tuning == "full" and model.eps and model.bases:
            method = dict(METHODS[model.method]().describe())
            for described in (method, method | {"extra": 1.0}):
                ours = adapted(method=described, task=model.adapted_on, threat=f"linf:{model.eps}:native")
                ours.provenance["source"] = model.bases[0]
                assert same_model(ours, model) == (described is method), model


@pytest.mark.parametrize(
    "changes",
    [
        {"threat": "linf:2/255:native"},
        {"threat": "l2:1/255:native"},
        {"threat": "one step"},
        {"method": {"name": "fare"}},
        {"method": {"name": "tecoa", "scale": 30.0}},
        {"method": "tecoa"},
        {"tuning": {"name": "token-prompt", "number": 100}},
        {"tuning": {"name": "full", "blocks": 2}},
        {"labels": "soft"},
        {"task": "cifar100"},
        {"what nobody here knows of": "a trick"},
    ],
    ids=str,
)
def test_a_model_adapted_in_another_way_is_another_model(changes):
    assert not same_model(adapted(**changes), TECOA)


def test_another_base_a_second_adaptation_or_an_unknown_story_is_another_model():
    told = adapted().provenance
    assert not same_model(Model("m", ("imagenet",), "", told | {"source": "openai/clip-vit-base-patch16"}), TECOA)
    assert not same_model(Model("m", ("imagenet", "imagenet"), "", told), TECOA)
    assert not same_model(Model("m", ("imagenet",), "", told | {"interpolation": 0.5}), TECOA)
    assert not same_model(Model("m", ("imagenet",), "", {}), TECOA)
    # published again on the hub: the base is kept, see zsrobust.json
    assert same_model(Model("m", ("imagenet",), "", told | {"source": "me/mine", "base_model": B32}), TECOA)


def test_released_weights_are_known_by_their_hub_id_only():
    released = {"source": "someone/tecoa", "revision": "0", "adapted_on": []}
    assert same_model(Model("m", (), "", released), TECOA)
    assert not same_model(Model("m", (), "", LOADED), TECOA)
    assert not same_model(Model("someone/tecoa", (), "", {"source": "tecoa", "adapted_on": []}), TECOA)
    plain_clip = PublishedModel("CLIP", bases=(B32,))
    assert same_model(Model("m", (), "", LOADED), plain_clip)
    assert not same_model(Model("m", (), "", LOADED | {"adaptation": {}, "wrapped in": "a defence"}), plain_clip)
    assert not same_model(adapted(), plain_clip)


# ---- beside ours


def one_run(
    folder, edit, *, task="cifar10", classes=10, threat=THREAT, attack=PGD, provenance=LOADED, geometry="", **told
):
    """A run of one model on one task: 30 of 40 images right when clean, 20 of them robust."""

    def breaks(model, task, seed, threat, example):
        return {"clean"} if example < 10 else {attack} if example < 20 else set()

    make_suite_run(
        folder, [lone(attack, threat=threat) | told], breaks, tasks={task: classes}, threats=(threat,), models=(B32,)
    )

    def change(description):
        description["models"][0] |= {"provenance": provenance, "adapted_on": provenance["adapted_on"]}
        images = geometry or ("32x32 as is" if threat.endswith("native") else "224/224 bicubic")
        description["tasks"][0] |= {"geometry": images, "templates": ["This is a photo of a {}"]}

    edit(folder, change)
    return summarise([load_run(folder)])


def shown(summary):
    return quotations(summary, summary.rows)


def test_the_same_thing_is_quoted_with_its_source_and_what_differs(tmp_path, edit):
    summary = one_run(tmp_path / "run", edit)
    (quotation,) = shown(summary)
    assert quotation.source.name == "tga-zsr"
    assert quotation.published_model == "CLIP"
    assert [quote.cells for quote in quotation.quotes] == [("cifar10", "40, –", "75.0, 88.06", "50.0, 2.42")]
    for text in (plain(summary), markdown(summary).replace("\\", ""), html(summary)):
        text = " ".join(text.split())
        for words in (
            WORDS,
            "NeurIPS 2024",
            "50.0, 2.42",
            "PGD-100 in steps of 1/255",
            "How many images they took of a task is not stated.",
            "Images here: 224/224 bicubic.",
            "This is a photo of a {}",
        ):
            assert words in text.replace("&#39;", "'")
    assert max(map(len, plain(summary).splitlines())) <= 80


@pytest.mark.parametrize(
    "other",
    [
        {"threat": "linf:2/255:model"},
        {"threat": "l2:1/255:model"},
        {"threat": "linf:1/255:native"},
        {"attack": "pgd:100"},
        {"attack": "pgd:50:step_size=1/255"},
        {"attack": "paper:pgd:100", "random_start": False},
        {"attack": "paper:pgd:100", "step_size": 0.5 / 255},
        {"attack": "autoattack"},
        {"task": "digits"},
        {"provenance": LOADED | {"source": "openai/clip-vit-base-patch16"}},
        {"provenance": {"source": "clip-vit-base-patch32", "revision": None, "adapted_on": []}},
        {"provenance": LOADED | {"adapted_on": ["imagenet"], "adaptation": ADAPTATION, "base": B32}},
    ],
    ids=str,
)
def test_another_eps_attack_task_space_or_model_is_quoted_nothing(tmp_path, edit, other):
    summary = one_run(tmp_path / "run", edit, **other)
    assert shown(summary) == ()
    for text in (plain(summary), markdown(summary), html(summary)):
        assert "NeurIPS" not in text
        assert WORDS not in " ".join(text.split())


def test_spaces_are_one_where_the_images_have_the_size_of_the_input(tmp_path, edit):
    native = {"task": "food101", "classes": 101, "threat": "linf:1/255:native"}
    for number, geometry in enumerate(("256/224 bicubic", "exactly 224x224 bicubic", "224x224 as is", "crop 224")):
        summary = one_run(tmp_path / str(number), edit, **native, geometry=geometry)
        ((quote,),) = (quotation.quotes for quotation in shown(summary))
        assert quote.published_robust == 6.60
    for number, geometry in enumerate(("256/240 bicubic", "224 bicubic", "as is", "32x32 as is"), start=4):
        assert shown(one_run(tmp_path / str(number), edit, **native, geometry=geometry)) == ()


def test_what_a_source_does_not_say_is_said(tmp_path, edit):
    summary = one_run(tmp_path / "run", edit, attack="pgd:20", threat="linf:1/255:native")
    (quotation,) = shown(summary)
    assert quotation.source.name == "agft"
    assert quotation.quotes[0].published_robust == 10.31
    assert quotation.quotes[0].published_clean is None
    assert "Where the perturbation lived is not stated; here: native." in quotation.remarks
    assert "Which split it was is not stated; here: test." in quotation.remarks
    assert "step size not stated" in quotation.attack
    assert "(secondary)" in dict(quotation.facts)["Read in"]


def test_an_adapted_model_is_quoted_with_how_it_was_trained(tmp_path, edit):
    provenance = dict(adapted().provenance)
    summary = one_run(tmp_path / "run", edit, attack="pgd:20", provenance=provenance)
    (quotation,) = shown(summary)
    assert quotation.published_model == "TeCoA, adapted on imagenet at ε = 1/255"
    assert quotation.quotes[0].published_robust == 59.85
    assert "Trained here: images 1000, epochs 10, lr 1e-05, against pgd:2; there: not stated." in quotation.remarks


def test_a_mean_needs_all_its_tasks_and_enters_no_mean_of_ours(tmp_path, edit):
    tasks = next(row.tasks for row in published(source="sart-clip", kind="robust"))

    def breaks(model, task, seed, threat, example):
        return {PGD} if example % 4 else set()

    def change(description):
        description["models"][0] |= {"provenance": LOADED}
        for task in description["tasks"]:
            task["geometry"] = "224/224 bicubic"

    def run(name, tasks):
        asked = [lone(PGD, threat=THREAT)]
        folder = make_suite_run(
            tmp_path / name, asked, breaks, tasks=dict.fromkeys(tasks, 10), threats=(THREAT,), n=8, models=(B32,)
        )
        edit(folder, lambda description: description["models"][0].update(adapted_on=[]))
        before = json.loads(json.dumps(summarise([load_run(folder)]).to_json()))
        edit(folder, change)
        summary = summarise([load_run(folder)])
        assert json.loads(json.dumps(summary.to_json())) == before  # with or without quotations
        return [q for q in shown(summary) if q.source.name == "sart-clip"]

    (quotation,) = run("all", tasks)
    assert [quote.cells for quote in quotation.quotes] == [("mean of 16 tasks", "8, –", "100.0, 63.12", "25.0, 3.04")]
    assert any("'test' here and 'dev' there for hateful-memes" in remark for remark in quotation.remarks)
    assert run("one less", tasks[:-1]) == []


def test_the_embedded_models_have_no_published_numbers(tmp_path):
    summary = summarise([load_run(make_run(tmp_path / "run", n=20, tasks=(ADAPTED, "cifar10"), eps=("1/255",)))])
    assert shown(summary) == ()
    assert 'class="published"' not in html(summary)
    assert "Published" not in plain(summary) + markdown(summary)
