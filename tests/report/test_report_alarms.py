"""What records alone can say against a number: each alarm is raised by its cause and by nothing near it."""

from __future__ import annotations

import json

import pytest
from fake_suite import SUITE, lone, make_suite_run, suite
from test_report_write import Page, printed

from zsrobust.report import load_run, summarise
from zsrobust.report.html import html
from zsrobust.report.markdown import markdown

STRONG = [*(f"autoattack/{m}" for m in SUITE), "pgd:100"]


def alarms(run, name):
    summary = summarise([load_run(run)])
    return {(row.task, row.threat): f for row in summary.rows for f in row.flags if f.name == name}


def only_strength(run, name):
    found = list(alarms(run, name).values())
    assert len(found) <= 1
    return found[0].strength if found else None


def first(count, *names):
    """The first images are broken by these attacks, one in four of the rest by all."""

    def breaks(model, task, seed, threat, example):
        return set(names) if example < count else set(STRONG) if example % 4 == 0 else set()

    return breaks


@pytest.mark.parametrize(
    ("n", "broken", "strength"),
    [
        (25, 0, None),
        (25, 1, None),
        (25, 2, "suspected"),
        (25, 3, "measured"),
        (200, 1, None),  # 0.5 %: as honest models do
        (200, 3, None),
        (200, 5, "suspected"),
        (200, 12, "measured"),
        (1000, 8, None),
        (1000, 40, "measured"),
    ],
)
def test_square_stronger_than_the_gradient(tmp_path, n, broken, strength):
    run = make_suite_run(tmp_path / "run", suite(), first(broken, "autoattack/square"), n=n, block=50)
    assert only_strength(run, "black-box-stronger") == strength


def test_lone_attacks_on_all_images_count_the_same(tmp_path):
    attacks = [lone(), lone("square", gradient=False)]

    def breaks(model, task, seed, threat, example):
        return {"square"} if example < 8 else {"square", "pgd:100"} if example < 30 else set()

    run = make_suite_run(tmp_path / "run", attacks, breaks)
    alarm = alarms(run, "black-box-stronger")["digits", "linf:4/255:native"]
    assert alarm.strength == "measured"
    figures = {"attacked": 40, "white_box_left_standing": 18, "black_box_broke": 8}
    assert figures.items() <= alarm.evidence.items()
    assert "square, without the model's gradient, broke 8 of the 18 images" in alarm.text


def test_what_any_gradient_attack_breaks_is_no_alarm(tmp_path):
    attacks = [lone(), lone("fab"), lone("square", gradient=False)]
    run = make_suite_run(tmp_path / "run", attacks, first(12, "square", "fab"))
    assert only_strength(run, "black-box-stronger") is None


def test_a_transfer_attack_is_a_black_box(tmp_path):
    attacks = [lone(), lone("transfer:b32", transfer=True)]
    run = make_suite_run(tmp_path / "run", attacks, first(6, "transfer:b32"))
    assert only_strength(run, "black-box-stronger") == "measured"


def test_attacks_that_do_not_say_what_they_use_raise_nothing(tmp_path):
    attacks = [{"name": "pgd:100"}, {"name": "square"}]
    run = make_suite_run(tmp_path / "run", attacks, first(12, "square"))
    assert only_strength(run, "black-box-stronger") is None


@pytest.mark.parametrize(
    ("by_the_rest", "steps", "raised"),
    [
        (0, 100, False),
        (8, 100, False),  # 4 points of 200: as honest models do
        (18, 100, False),  # 9 points
        (40, 100, True),
        (40, 20, False),  # 20 steps are few, so no surprise
    ],
)
def test_a_suite_far_below_the_cross_entropy(tmp_path, by_the_rest, steps, raised):
    attacks = suite(steps=steps)
    run = make_suite_run(tmp_path / "run", attacks, first(by_the_rest, *STRONG[1:3]), n=200, block=50)
    found = alarms(run, "weak-gradient")
    assert bool(found) == raised
    if raised:
        (alarm,) = found.values()
        assert alarm.strength == "measured"
        assert alarm.evidence["points"] == 0.2
        assert alarm.evidence["p"] == 2 * 0.5**40
        assert (alarm.evidence["broken_by_suite_only"], alarm.evidence["broken_by_reference_only"]) == (40, 0)


def test_ten_points_of_few_images_are_no_evidence(tmp_path):
    run = make_suite_run(tmp_path / "run", suite(), first(5, *STRONG[1:3]), n=25)
    assert only_strength(run, "weak-gradient") is None  # 20 points, p = 0.06


def test_a_strong_pgd_beside_the_suite_speaks_for_the_gradient(tmp_path):
    attacks = [lone(), *suite()]  # APGD on the cross-entropy fails here, PGD does not
    run = make_suite_run(tmp_path / "run", attacks, first(40, *STRONG[1:3], "pgd:100"), n=200, block=50)
    assert only_strength(run, "weak-gradient") is None
    run = make_suite_run(tmp_path / "both", attacks, first(40, *STRONG[1:3]), n=200, block=50)
    assert only_strength(run, "weak-gradient") == "measured"


def test_attacks_of_one_kind_are_no_suite(tmp_path):
    attacks = [lone(), lone("pgd:50", steps=50)]
    run = make_suite_run(tmp_path / "run", attacks, first(40, "pgd:50"), n=200, block=50)
    assert only_strength(run, "weak-gradient") is None


@pytest.mark.parametrize(
    ("threat", "surviving", "classes", "strength"),
    [
        ("linf:32/255:native", 20, 10, "measured"),
        ("linf:32/255:native", 3, 10, None),  # chance of ten classes
        ("linf:32/255:native", 20, 2, None),  # one answer for all images would do as well
        ("linf:8/255:native", 20, 10, None),  # what a robust model is for
        ("linf:128/255:native", 5, 10, "proved"),  # grey images, 10 % of each class
        ("linf:128/255:native", 4, 10, None),
        ("l2:5:native", 20, 10, "suspected"),
        ("l2:3:native", 20, 10, None),
    ],
)
def test_accuracy_that_does_not_fall(tmp_path, threat, surviving, classes, strength):
    def breaks(model, task, seed, threat, example):
        return set() if example < surviving else {"pgd:100"}

    attacks = [lone(threat=threat)]
    run = make_suite_run(
        tmp_path / "run", attacks, breaks, tasks={"digits": classes}, n=40, block=40, threats=(threat,)
    )
    assert only_strength(run, "does-not-fall") == strength


def test_only_the_largest_eps_has_to_break_everything(tmp_path):
    threats = ("linf:32/255:native", "linf:64/255:native")

    def breaks(model, task, seed, threat, example):
        return {"pgd:100"} if "64" in threat or example % 2 else set()

    run = make_suite_run(tmp_path / "run", [lone(threat=t) for t in threats], breaks, threats=threats)
    assert alarms(run, "does-not-fall") == {}


def test_accuracy_that_rises_is_proved_on_the_same_images_only(tmp_path):
    threats = ("linf:1/255:native", "linf:4/255:native")

    def breaks(model, task, seed, threat, example):
        return {"pgd:100"} if "1/255" in threat or example >= 30 else set()

    run = make_suite_run(tmp_path / "run", [lone(threat=t) for t in threats], breaks, threats=threats)
    (where,) = alarms(run, "rises-with-eps")
    assert where == ("digits", "linf:4/255:native")
    path = run / "records.jsonl"
    lines = [
        line for line in path.read_text().splitlines() if not (json.loads(line)["example"] >= 30 and "4/255" in line)
    ]
    path.write_text("\n".join(lines) + "\n")
    assert alarms(run, "rises-with-eps") == {}  # 40 images against 30


@pytest.mark.parametrize(
    ("more", "adaptive"), [((), None), (("transfer:b32",), None), (("pgd:5",), 0.5), (("transfer:b32", "pgd:5"), 0.5)]
)
def test_a_transfer_does_not_go_through_a_defence(tmp_path, more, adaptive):
    kinds = {"transfer:b32": {"transfer": True, "gradient": False}, "pgd:5": {}}
    attacks = [lone(name, **kinds[name]) for name in more]  # before the oblivious one, which alone names what to add
    attacks.append(lone("oblivious:pgd:3", oblivious=True, gradient=False))

    def breaks(model, task, seed, threat, example):
        return {"transfer:b32"} if example < 10 else {"pgd:5"} if example < 30 else {"oblivious:pgd:3"}

    (row,) = summarise([load_run(make_suite_run(tmp_path / "run", attacks, breaks))]).rows
    assert (row.defended.oblivious, row.defended.adaptive) == (0.75, adaptive)
    found = [alarm for alarm in row.flags if alarm.name == "oblivious-only"]
    assert bool(found) == (adaptive is None)
    for alarm in found:
        assert alarm.strength == "proved"
        assert alarm.text.startswith(f"attacked only without its defence {'or from another model ' if more else ''}(")
        assert alarm.text.endswith("such as pgd:3")


EVIL = "<script>alert(1)</script>"


def test_alarms_are_shown_with_their_strength_and_evidence(tmp_path):
    flag = {"text": "a plain sentence", "name": EVIL, "strength": "suspected", "evidence": {EVIL: EVIL, "share": 0.25}}
    run = make_suite_run(tmp_path / "run", suite(), first(6, "autoattack/square"), flags=[flag])
    summary = summarise([load_run(run)])
    page = Page(html(summary))
    assert page.open == []
    assert "script" not in page.tags
    text = " ".join(page.text.split())
    assert "This number is in doubt" in text
    assert "black-box-stronger measured" in text
    assert "black box broke 6" in text
    assert "share 0.25" in text
    assert "suspected" in text
    for plain in (printed(summary, 200), markdown(summary)):
        assert "without the model's gradient, broke 6 of the" in plain
        assert "(black-box-stronger, measured)" in plain
        assert "marked ! is in doubt" in plain
    assert "<script" not in markdown(summary).replace("\\<", "")


def test_a_sound_number_is_not_in_doubt(tmp_path):
    summary = summarise([load_run(make_suite_run(tmp_path / "run", suite(), first(0)))])
    assert summary.rows[0].flags == ()
    for text in (html(summary), markdown(summary), printed(summary)):
        assert "in doubt" not in text.replace('title="in doubt"', "")
