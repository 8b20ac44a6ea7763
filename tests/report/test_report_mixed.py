"""Numbers stand side by side, are averaged and are marked only where that is true of all that is behind them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_run import make_run
from fake_suite import THREAT, lone, make_suite_run, suite
from test_report_write import Page, printed

from zsrobust.records import RecordFile
from zsrobust.report import load_run, summarise
from zsrobust.report.charts import panels
from zsrobust.report.html import html
from zsrobust.report.markdown import markdown
from zsrobust.report.results import Mean
from zsrobust.report.view import conditions, remarks, tables

FIVE = ("world-textures", "world-counting", "world-backgrounds", "cifar10", "digits")
LATER = FIVE[2:]


def keep(folder, wanted):
    """Only the records that are wanted."""
    path = folder / "records.jsonl"
    records = [record for record in RecordFile(path).read() if wanted(record)]
    path.unlink()
    with RecordFile(path) as file:
        file.append(records)


def killed(folder, model, **more):
    """A run that was killed when ``model``, its last, had two of five tasks."""
    run = make_run(folder, tasks=FIVE, n=20, **more)
    keep(run, lambda r: not (r.model == model and r.task in LATER))
    return summarise([load_run(run)])


def words(text):
    return " ".join(text.split())


def cells(text, start):
    """The cells of the Markdown rows that begin with ``start``."""
    return [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(f"| {start}")]


# ---- tasks


def test_means_over_other_tasks_have_lines_of_their_own(tmp_path):
    summary = killed(tmp_path / "run", "tiny-tecoa")
    (table,) = tables(summary)
    means = [line for line in table.blocks[0].lines if line.mean]
    assert [(line.label, line.model, line.before, line.n) for line in means] == [
        ("mean of 5 tasks", "tiny", None, 100),
        ("mean of 2 tasks", "tiny-tecoa", None, 40),
    ]
    assert means[0].change is None
    assert means[1].change.tasks == means[1].after.tasks
    whole = make_run(tmp_path / "whole", tasks=FIVE, n=20)
    (line,) = [line for line in tables(summarise([load_run(whole)]))[0].blocks[0].lines if line.mean]
    assert (line.label, line.before.tasks, line.after.tasks, line.change.tasks) == ("mean of 5 tasks", *[FIVE] * 3)


def test_the_headline_says_over_how_many_tasks_it_is(tmp_path):
    summary = killed(tmp_path / "run", "tiny-tecoa")
    texts = [words(text) for text in (printed(summary), markdown(summary), Page(html(summary)).text)]
    for text in texts:
        assert "2 unrelated tasks" in text
        assert "5 unrelated tasks" not in text
    three = killed(tmp_path / "three", "tiny-fare", models=("tiny", "tiny-tecoa", "tiny-fare"))
    labels = [(line.label, line.model) for line in tables(three)[0].headline]
    assert labels == [
        ("5 unrelated tasks", "tiny"),
        ("5 unrelated tasks", "tiny-tecoa"),
        ("2 unrelated tasks", "tiny-fare"),
    ]
    assert "2 unrelated tasks, tiny-fare: robust" in words(printed(three))
    assert "mean of 2 unrelated tasks, ε = 4/255, tiny-fare" in words(Page(html(three)).text)


def test_as_many_other_tasks_are_named(tmp_path):
    run = make_run(tmp_path / "run", tasks=FIVE[:3], n=20)
    gone = {"tiny": FIVE[0], "tiny-tecoa": FIVE[2]}
    keep(run, lambda r: gone[r.model] != r.task)
    (table,) = tables(summarise([load_run(run)]))
    assert [(line.label, line.model) for line in table.blocks[0].lines if line.mean] == [
        ("mean of 2 tasks with world-backgrounds", "tiny"),
        ("mean of 2 tasks with world-textures", "tiny-tecoa"),
    ]
    assert [line.label for line in table.headline] == ["1 unrelated task"]  # the one that both have


def test_a_change_over_fewer_tasks_is_not_beside_the_mean(tmp_path):
    """On one task the two were attacked otherwise, so their change is over the other one."""
    entries = [lone(tasks=["digits"]), lone("pgd:50", tasks=["cifar10"])]
    before = make_suite_run(tmp_path / "before", entries, lambda *_: set(), tasks={"digits": 10, "cifar10": 10})
    after = make_suite_run(
        tmp_path / "after", [lone()], lambda *_: set(), models=("tiny-x",), tasks={"digits": 10, "cifar10": 10}
    )
    summary = summarise([load_run(before), load_run(after)])
    (table,) = tables(summary)
    (line,) = [line for line in table.blocks[0].lines if line.mean]
    assert (line.before.tasks, line.after.tasks, line.change) == (("digits", "cifar10"),) * 2 + (None,)
    assert [(line.label, line.change.tasks) for line in table.headline] == [("1 unrelated task", ("digits",))]


def test_a_pair_without_a_change_names_the_model_of_its_headline(tmp_path):
    """Nothing was attacked alike, so each accuracy stands alone."""
    before = make_suite_run(tmp_path / "before", [lone("pgd:50")], lambda *_: set())
    after = make_suite_run(tmp_path / "after", [lone()], lambda *_: set(), models=("tiny-x",))
    summary = summarise([load_run(before), load_run(after)])
    assert "1 unrelated task, tiny-x: robust 100.0 %" in words(printed(summary))
    assert "**1 unrelated task, tiny-x: robust 100.0" in markdown(summary)
    assert "mean of 1 unrelated task, ε = 4/255, tiny-x" in words(Page(html(summary)).text)


def test_examples_are_those_of_each_model(tmp_path):
    def said(summary):
        return dict(conditions(summary, tables(summary)[0]))["Examples"]

    summary = killed(tmp_path / "run", "tiny-tecoa")
    assert said(summary) == "5 tasks with 20 examples each (tiny); 2 tasks with 20 examples each (tiny-tecoa)"
    whole = summarise([load_run(make_run(tmp_path / "whole", tasks=FIVE, n=20))])
    assert said(whole) == "5 tasks with 20 examples each"


def test_markdown_puts_what_is_only_before_under_before(tmp_path):
    text = markdown(killed(tmp_path / "run", "tiny-tecoa"))
    for start, before in (("digits", True), ("*mean of 5", True), ("*mean of 2", False)):
        (row,) = cells(text.split("Attack by attack")[0], start)
        assert [bool(cell) for cell in row[2:6]] == [before, not before] * 2


def test_the_page_draws_what_is_only_before_hollow(tmp_path):
    page = html(killed(tmp_path / "run", "tiny-tecoa"))
    only = page.split('aria-label="digits, tiny: robust')[1].split("</svg>")[0]
    assert 'class="hollow"' in only
    assert 'class="filled"' not in only


def test_curves_over_other_tasks_have_panels_of_their_own(tmp_path):
    summary = killed(tmp_path / "run", "tiny-tecoa", eps=("1/255", "4/255"))
    assert [(p.title, [c.model for c in p.curves]) for p in panels(summary)] == [
        ("Unrelated, 5 tasks", ["tiny"]),
        ("Unrelated, 2 tasks", ["tiny-tecoa"]),
    ]


# ---- attacks and seeds


def often(model, task, seed, threat, example):
    return ({"pgd:100"} if example < 10 else set()) | ({"autoattack/apgd:ce"} if example < 20 else set())


def test_seeds_under_different_attacks_are_not_averaged(tmp_path):
    runs = [
        make_suite_run(tmp_path / "0", [lone()], often, seeds=(0,)),
        make_suite_run(tmp_path / "1", suite(), often, seeds=(1,)),
    ]
    summary = summarise([load_run(run) for run in runs])
    assert summary.across_seeds == ()
    assert summary.notes == (
        f"Seeds under different attacks are not averaged: seed 0 pgd:100, seed 1 autoattack (tiny under {THREAT}).",
    )
    runs.append(make_suite_run(tmp_path / "2", suite(), often, seeds=(2,)))
    summary = summarise([load_run(run) for run in runs])
    assert {(a.seeds, a.robust) for a in summary.across_seeds} == {((1, 2), 0.5)}
    assert "Mean over seeds 1, 2 under" in printed(summary)
    assert cells(markdown(summary), "tiny | unrelated")[0][4] == "1, 2"


def test_a_mean_over_different_attacks_says_so(tmp_path):
    runs = [
        make_suite_run(tmp_path / "0", [lone()], often, tasks={"digits": 10}),
        make_suite_run(tmp_path / "1", suite(), often, tasks={"cifar10": 10, "dtd": 47}),
    ]
    assert summarise([load_run(run) for run in runs]).notes == (
        "A mean is over tasks under different attacks: pgd:100 on digits, autoattack on cifar10 and dtd "
        f"(tiny under {THREAT}).",
    )


def test_the_suite_for_few_classes_is_no_other_attack(tmp_path):
    entries = [lone(), *suite(tasks=["digits"]), *suite("autoattack-few", tasks=["pcam"])]
    run = make_suite_run(tmp_path / "run", entries, often, tasks={"digits": 10, "pcam": 2}, seeds=(0, 1))
    summary = summarise([load_run(run)])
    assert summary.notes == ()
    both = [a for a in summary.across_seeds if a.which == "all"]
    assert {(a.seeds, a.tasks) for a in both} == {((0, 1), ("digits", "pcam"))}


def test_least_and_largest_seed_are_on_the_same_images(tmp_path):
    """The first twenty images are hard, and the second seed was killed after them."""

    def hard_first(model, task, seed, threat, example):
        return {"pgd:100"} if example < 15 - 5 * seed else set()

    run = make_suite_run(tmp_path / "run", [lone()], hard_first, n=80, block=20, seeds=(0, 1))
    keep(run, lambda r: r.seed == 0 or r.example < 20)
    across = summarise([load_run(run)]).across_seeds[0]
    assert (across.n, across.robust, across.robust_range) == (20, 0.375, (0.25, 0.5))
    assert across.clean_range == (1, 1)


def test_the_mean_over_seeds_says_over_how_many_tasks_it_is(tmp_path):
    summary = killed(tmp_path / "run", "tiny-tecoa", seeds=(0, 1))
    sizes = {(a.model, len(a.tasks)) for a in summary.across_seeds}
    assert sizes == {("tiny", 5), ("tiny-tecoa", 2)}
    assert "unrelated (2)" in printed(summary)
    assert cells(markdown(summary).split("Mean over seeds")[1], "tiny-tecoa")[0][2] == "2"
    assert "tiny-tecoa, unrelated, 2 tasks" in words(Page(html(summary)).text)


# ---- doubts


@pytest.fixture
def doubtful(tmp_path):
    """Of seed 1 one task of ``tiny-x`` is in doubt; ``tiny`` is not."""
    flag = {"text": "it is random", "model": "tiny-x", "task": "digits", "seed": 1}
    tasks = {"digits": 10, "cifar10": 10}
    return make_suite_run(
        tmp_path / "run", [lone()], often, models=("tiny", "tiny-x"), tasks=tasks, seeds=(0, 1), flags=[flag]
    )


def test_a_headline_in_doubt_is_marked(doubtful):
    summary = summarise([load_run(doubtful)])
    assert words(printed(summary)).count("75.0 → 75.0 %!, ±0.0 points") == 1
    assert markdown(summary).count("75.0 → 75.0 !, ±0.0 points") == 1
    alone = replace(summary, pairs=(), comparisons=())
    assert words(printed(alone)).count(")!, clean") == 1
    assert markdown(alone).count(") !, clean") == 1


def test_a_mean_over_seeds_in_doubt_is_marked(doubtful):
    summary = summarise([load_run(doubtful)])
    at_the_end = printed(summary).split("Mean over seeds")[1]
    marked = [line.split()[0] for line in at_the_end.splitlines() if ")!" in line]
    assert marked == ["tiny-x"]
    rows = cells(markdown(summary).split("## Mean over seeds")[1], "tiny")
    assert [row[0] for row in rows if any(cell.endswith("!") for cell in row)] == ["tiny-x"]
    page = html(summary).split("<h2>Mean over seeds")[1].split("</table>")[0]
    assert ["doubtful" in row for row in page.split("<tr>")[2:]] == [False, True]


# ---- names


def test_a_plus_in_the_name_of_an_attack_does_not_part_it(tmp_path):
    name = "transfer:toy+ttc:samples=2"
    entries = [lone(), lone(name, transfer=True, gradient=False)]
    summary = summarise([load_run(make_suite_run(tmp_path / "run", entries, often))])
    told = dict(conditions(summary, tables(summary)[0]))["Attack"]
    assert told == f"pgd:100 (steps 100) + {name} (steps 100, transfer)"


@pytest.mark.parametrize(
    ("norm", "axis"),
    [
        ("linf", "ε, largest change of a pixel"),
        ("l2", "ε, Euclidean length of the change"),
        ("patch", "ε, largest share of the area that changes"),
    ],
)
def test_the_axis_says_what_its_threat_bounds(tmp_path, norm, axis):
    threats = [f"{norm}:{eps}:native" for eps in ("0.1", "0.2")]
    entries = [lone(threat=threat) for threat in threats]
    run = make_suite_run(tmp_path / "run", entries, often, threats=threats, n=20)
    assert f'text-anchor="end">{axis}</text>' in html(summarise([load_run(run)]))


# ---- pairs


def pairs(tmp_path, edit, provenance, *, models=("tiny", "tiny-b", "tiny-x")):
    """Of models of which the last one was adapted, and the first ones say where they come from."""
    run = make_suite_run(tmp_path / "run", [lone()], often, models=models, n=20)

    def change(description):
        *plain, last = description["models"]
        for model in plain:
            model.update(adapted_on=[], provenance={"source": f"hub/{model['name']}"})
        last["provenance"] = provenance

    edit(run, change)
    summary = summarise([load_run(run)])
    return dict(reversed(pair) for pair in summary.pairs).get(models[-1]), summary.notes


@pytest.mark.parametrize(
    ("provenance", "before"),
    [
        ({"source": "tiny-b"}, "tiny-b"),
        ({"source": "hub/tiny-b"}, "tiny-b"),  # the name it was evaluated under is another one
        ({"source": "me/mine", "base_model": "hub/tiny-b"}, "tiny-b"),
        ({"base": "tiny-b", "source": "hub/tiny"}, "tiny-b"),
        ({"base": "a folder", "adaptation": {"base_fingerprint": "weights-of-tiny-b"}}, "tiny-b"),
        ({"base": "tiny", "adaptation": {"base_fingerprint": "weights-of-tiny-b"}}, "tiny-b"),
    ],
    ids=str,
)
def test_an_adapted_model_is_paired_with_what_it_came_from(tmp_path, edit, provenance, before):
    assert pairs(tmp_path, edit, provenance) == (before, ())


@pytest.mark.parametrize("key", ["base", "base_model", "parent"])
def test_a_model_that_came_from_elsewhere_is_not_paired(tmp_path, edit, key):
    before, notes = pairs(tmp_path, edit, {"source": "x", key: "openai/clip-vit-large-patch14"})
    assert before is None
    assert notes == (
        "tiny-x was adapted from openai/clip-vit-large-patch14, which is not in this report, so no change is given.",
    )


@pytest.mark.parametrize("provenance", [{}, {"source": "tecoa.pt"}], ids=str)
def test_a_model_that_does_not_say_its_base_is_paired_with_a_note(tmp_path, edit, provenance):
    before, notes = pairs(tmp_path, edit, provenance)
    assert before == "tiny"
    assert notes == (
        "tiny-x does not say which model it was adapted from: its changes are against tiny, the first unadapted one.",
    )


def test_a_report_without_pairs_has_no_changes(tmp_path, edit):
    run = make_suite_run(tmp_path / "run", [lone()], often, models=("tiny", "tiny-x"), n=20)
    edit(run, lambda d: d["models"][1].update(provenance={"base": "openai/clip-vit-large-patch14"}))
    summary = summarise([load_run(run)])
    assert summary.comparisons == ()
    assert all(isinstance(line.after, Mean) and line.before is None for line in tables(summary)[0].headline)
    for text in (printed(summary), markdown(summary), Page(html(summary)).text):
        assert "which is not in this report" in words(text)
        assert "→" not in text
    assert any("which is not in this report" in remark for remark in remarks(summary))


@pytest.mark.parametrize(
    "told",
    [
        {"source": "visual.pt", "base_model": "tiny"},
        {"source": "tiny", "adaptation": {"base": "tiny", "base_fingerprint": "weights-of-tiny"}},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("bases", "expected"),
    [
        (("tiny", "tiny-96"), {("tiny", "mine"), ("tiny-96", "mine-96")}),
        (("tiny",), {("tiny", "mine")}),
        (("tiny-96",), {("tiny-96", "mine-96")}),
    ],
)
def test_a_resized_model_is_paired_with_its_base_of_that_size(tmp_path, edit, bases, expected, told):
    run = make_suite_run(tmp_path / "run", [lone()], often, models=(*bases, "mine", "mine-96"), n=20)

    def change(description):
        for model in description["models"]:
            model["adapted_on"] = [] if model["name"] in bases else ["digits"]
            model["provenance"] = {"source": "tiny"} if model["name"] in bases else dict(told)
            if model["name"].endswith("-96"):
                model["provenance"]["resized"] = {"from": 64, "to": 96, "how": "bicubic"}

    edit(run, change)
    summary = summarise([load_run(run)])
    assert set(summary.pairs) == expected
    alone = {"mine", "mine-96"} - {after for _, after in expected}
    where = "in this report for another size of images only"
    assert summary.notes == tuple(f"{n} was adapted from tiny, which is {where}, so no change is given." for n in alone)
