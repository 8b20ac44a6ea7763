"""Figures: what they show is what the records say; the files are the same each time; the page loads nothing."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from tests.study.fake_study import main_recipe, main_strength, tuning_of, write_study

from zsrobust.errors import ConfigError, RunError, UnknownName
from zsrobust.study import charts, document, drawing, figures, page, plots, scores
from zsrobust.study.results import load

TASKS = ("world-compositions", "world-shapes", "cifar10")
SCRIPT = "<script>alert(1)</script> & $x$"


def recipe():
    return {**main_recipe(), "seeds": [0], "title": SCRIPT, "interpolate": [0.5]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    attacks = {"pgd:1": 0.5, "pgd:20": 1.0, "apgd:ce": 1.1}
    write_study(
        folder / "main", recipe(), main_strength, n=20, tasks=TASKS, attacks=attacks, eps=("1/255", "4/255"),
        tuning=tuning_of(main_recipe()),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def study(root):
    return load(root / "main")


def chart(study, **entry):
    (figure,) = figures.check({**recipe(), "figures": [entry]})
    return plots.build(study, figure)


def points(drawn):
    return {(s.name, p.x): p for panel in drawn.panels for s in panel.series for p in s.points}


def expected(study, tier, what, threat=None, attack=scores.EVERY_ATTACK, **levels):
    cells = [c for c in study.cells if c.levels == levels and c.alpha is None]
    return scores.score(cells, study.tasks_of(tier), scores.Measure(what, threat or study.primary.text, attack))


FINE = {"loss": "TeCoA", "way": "fine-tuning"}


def test_a_scatter_has_a_point_for_each_group_and_the_unadapted_model(study):
    drawn = chart(study, kind="scatter", colour="loss", marker="way", tier="all")
    shown = [point for panel in drawn.panels for series in panel.series for point in series.points]
    assert len(shown) == 10
    x, y = expected(study, "all", "clean", **FINE), expected(study, "all", "robust", **FINE)
    point = points(drawn)["TeCoA, fine-tuning", x.value]
    assert (point.x_interval, point.y, point.y_interval) == (x.interval, y.value, y.interval)
    assert {one.note for one in shown} == {""}
    assert {key.label for key in drawn.legend} == {
        "TeCoA", "CoAdv", "standard", "fine-tuning", "token prompt", "pixel prompt", "unadapted",
    }  # fmt: skip


def test_lines_over_steps_eps_and_alpha(study):
    where = {"loss": "TeCoA"}
    steps = points(chart(study, kind="lines", x="steps", colour="way", where=where))
    for i, attack in enumerate(("pgd:1", "pgd:20", "apgd:ce")):
        assert steps["fine-tuning", i].y == expected(study, "unrelated", "robust", attack=attack, **FINE).value
    eps = points(chart(study, kind="lines", x="eps", colour="way", where=where))
    assert eps["fine-tuning", 0.0].y == expected(study, "unrelated", "clean", **FINE).value
    assert eps["fine-tuning", 4 / 255].y == expected(study, "unrelated", "robust", "linf:4/255:native", **FINE).value
    alpha = points(chart(study, kind="lines", x="alpha", colour="way", where=where))
    assert sorted(x for name, x in alpha if name == "fine-tuning") == [0.0, 0.5, 1.0]
    assert alpha["fine-tuning", 0.0].y == expected(study, "unrelated", "robust").value


def test_bars_over_tasks_and_what_tuning_saw(study):
    bars = points(chart(study, kind="bars", y="clean", by="task", colour="loss", where={"way": "fine-tuning"}))
    cells = [cell for cell in study.cells if cell.levels == FINE and cell.alpha is None]
    alone = scores.score(cells, (study.tasks[2],), scores.Measure("clean", study.primary.text))
    assert bars["TeCoA", 2.0].y == alone.value
    assert bars["TeCoA", 2.0].y_interval == alone.interval
    rates = chart(study, kind="rates", colour="loss", panel="way")
    assert [panel.title for panel in rates.panels] == ["fine-tuning", "token prompt", "pixel prompt"]
    first = {point.x: point for point in rates.panels[0].series[0].points}
    assert first[1e-4].ring
    assert (first[1e-3].y, first[1e-3].note) == (0.0, "diverged")


def test_an_axis_left_open_is_refused(study):
    with pytest.raises(ConfigError, match="leaves way open"):
        chart(study, kind="bars", by="task", colour="loss")
    with pytest.raises(UnknownName, match="threat in figure"):
        chart(study, kind="scatter", threat="linf:8/255:native")


@pytest.mark.parametrize(
    ("entry", "error", "words"),
    [
        ({"kind": "skatter"}, UnknownName, "did you mean 'scatter'"),
        ({"kind": "scatter", "color": "loss"}, UnknownName, "did you mean 'colour'"),
        ({"kind": "scatter", "colour": "los"}, UnknownName, "did you mean 'loss'"),
        ({"kind": "bars", "by": "task", "where": {"loss": "teCoA"}}, UnknownName, "did you mean 'TeCoA'"),
        ({"kind": "bars", "y": "robust"}, ConfigError, "has no 'by'"),
        ({"kind": "lines"}, ConfigError, "has no 'x'"),
        ({"kind": "lines", "x": "metod"}, UnknownName, "did you mean 'method'"),
        ({"kind": "lines", "x": "eps", "path": "alpha"}, UnknownName, "key for kind 'lines'"),
    ],
)
def test_mistakes_are_one_clear_line_before_anything_runs(entry, error, words):
    with pytest.raises(error, match=words) as raised:
        figures.check({**recipe(), "figures": [entry]})
    assert "\n" not in str(raised.value)


def test_too_many_colours_and_rates_without_tuning_are_refused():
    many = {"axes": {"count": {str(k): {} for k in range(7)}}, "figures": [{"kind": "scatter", "colour": "count"}]}
    with pytest.raises(ConfigError, match="tell 5 levels apart, 'count' has 7"):
        figures.check(many)
    with pytest.raises(ConfigError, match="needs 'tune'"):
        figures.check({"axes": {}, "figures": [{"kind": "rates"}]})


def test_the_same_chart_is_the_same_file_and_a_dollar_is_a_dollar(study):
    drawn = chart(study, kind="scatter", path="alpha", colour="loss", title=SCRIPT)
    assert drawing.svg(drawn) == drawing.svg(drawn)
    assert drawing.png(drawn) == drawing.png(drawn)
    text = "".join(ElementTree.fromstring(drawing.svg(drawn)).itertext())
    assert SCRIPT in text
    head, rows = charts.table(drawn)
    assert len(rows) == sum(len(series.points) for panel in drawn.panels for series in panel.series)
    assert all(len(row) == len(head) for row in rows)


def test_the_page_is_one_file_that_loads_nothing_and_trusts_no_name(root):
    text = page.write(root).read_text()
    assert "<script" not in text
    assert not re.search(r'(src|href|url)\s*[=(]\s*["\']?(https?:)?//', text.replace("xmlns:xlink", ""))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    results = json.loads((root / "main" / "results.json").read_text())
    assert [(root / "main" / entry["svg"]).is_file() for entry in results["figures"]] == [True] * 4
    for entry in results["claims"]:
        assert entry["verdicts"][0]["verdict"] in text


def test_the_document_links_to_its_figures_and_says_what_has_one_seed(root, tmp_path):
    out = tmp_path / "docs" / "study.md"
    text = document.study_md(root, out)
    assert out.read_text() == text
    links = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(links) == 4
    assert all((out.parent / link).is_file() for link in links)
    assert "one seed (0): intervals cover the images only" in text
    for claim in {entry["claim"] for entry in recipe()["claims"]}:
        assert f"### {claim}\n" in text


def test_a_folder_without_studies_is_said(tmp_path):
    with pytest.raises(RunError, match="no study with a finished cell"):
        page.write(tmp_path)
