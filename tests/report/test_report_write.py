from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from fake_run import MODELS, make_run
from rich.console import Console

from zsrobust.errors import RunError
from zsrobust.report import load_run, main_report, summarise, terminal, write
from zsrobust.report.html import html
from zsrobust.report.markdown import markdown

FOUR = ("world-compositions", "world-shapes", "world-textures", "cifar10")
UPPER_BOUND = "A robust accuracy is an upper bound"


def printed(summary, width=80):
    console = Console(width=width, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    terminal(summary, console)
    console.file.close()
    return console.export_text()


class Page(HTMLParser):
    """Collects tags, attributes and text, and that every tag is closed."""

    VOID = frozenset({"meta", "img", "link", "br", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def summary(run):
    return summarise([load_run(run)])


def test_all_three_files_are_written_and_say_the_headline(run, summary):
    write(summary, run)
    headline = next(
        c for c in summary.comparisons if (c.task, c.tier, c.threat) == (None, "unrelated", "linf:1/255:native")
    )
    change = f"{100 * headline.robust_change:+.1f} points"
    for text in ((run / "report.md").read_text(), (run / "report.html").read_text(), printed(summary, 200)):
        assert change in text
        assert "every pixel may change by at most 1/255, at the task" in text
        assert UPPER_BOUND in " ".join(text.split())
        assert "pgd:20" in text
        assert "float32" in text
    assert json.loads((run / "summary.json").read_text())["format"] == "zsrobust.summary/1"
    assert not [p for p in run.iterdir() if p.name.startswith(".")]


def test_the_page_is_whole_and_loads_nothing(summary):
    page = Page(html(summary))
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset", "xlink:href")]
    assert len(sources) == 4 * 2 * 3  # items × models × (image, attacked, change)
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert not re.search(r"https?:|url\(|@import", html(summary))
    assert all(value for name, value in page.attributes if name == "alt")
    assert ("name", "viewport") in page.attributes


def test_pictures_say_right_and_wrong_in_more_than_colour(summary):
    page = Page(html(summary))
    assert "✗ Broken" in page.text
    assert "✓ Survived" in page.text
    assert "(but survived once rounded to 8 bits)" in page.text
    assert "no pixel moved by more than 4.0/255" in page.text
    assert page.attributes.count(("aria-label", "wrong")) == 5  # the broken ones' first guess
    assert page.attributes.count(("aria-label", "right")) == 4 * 2 * 2


def test_names_never_become_markup(tmp_path, edit):
    evil = "<script>alert(1)</script>"
    run = make_run(tmp_path / "run", models=("tiny", evil), n=20, tasks=("world-compositions",), pictures=True)
    edit(
        run / "pictures",
        lambda d: d["items"][0]["models"][1]["clean_top"][0].__setitem__(0, evil),
        "index.json",
    )
    edit(run, lambda d: d.update(flags=[{"text": "[bold]see[/bold] <img src=x>"}]))
    summary = summarise([load_run(run)])
    page = Page(html(summary))
    assert "script" not in page.tags
    assert evil in page.text
    assert "<img src=x>" in page.text
    text = markdown(summary)
    assert "<script" not in text.replace("\\<", "")
    assert "<img" not in text.replace("\\<", "")
    assert "[bold]see[/bold]" in printed(summary)


@pytest.mark.parametrize("models", [("tiny",), MODELS, (*MODELS, "runs/a/very/long/name-" + "x" * 90)])
def test_a_terminal_of_80_columns_shows_every_number(tmp_path, models):
    run = make_run(tmp_path / "run", models=models, tasks=FOUR, n=40, eps=("1/255", "4/255"), seeds=(0, 1))
    summary = summarise([load_run(run)])
    text = printed(summary)
    assert max(map(len, text.splitlines())) <= 80
    for row in summary.rows:
        shown = f"{100 * row.robust:.1f} ({100 * row.robust_interval[0]:.0f}–{100 * row.robust_interval[1]:.0f})"
        assert shown in text
    assert "Mean over seeds" in text
    assert bool(re.search(r"interval\) +change", text)) == (len(models) > 1)


def test_markdown_tables_are_tables(tmp_path):
    for models in (MODELS, (*MODELS, "third")):
        run = make_run(tmp_path / str(len(models)), models=models, tasks=FOUR, n=20, seeds=(0, 1))
        columns = None
        for line in markdown(summarise([load_run(run)])).splitlines():
            if line.startswith("|"):
                columns = columns or line.count(" | ")
                assert line.count(" | ") == columns
            else:
                columns = None


def test_the_curve_starts_at_clean_and_falls(tmp_path):
    run = make_run(tmp_path / "run", tasks=FOUR, n=40, eps=("1/255", "2/255", "4/255"))
    summary = summarise([load_run(run)])
    page = Page(html(summary))
    curves = [value for name, value in page.attributes if name == "aria-label" and "against ε, Unrelated" in value]
    assert len(curves) == 1
    shares = [float(x) for x in re.findall(r"tiny at ε = \S+: ([\d.]+) %", curves[0])]
    clean = next(m.clean for m in summary.means if (m.model, m.tier) == ("tiny", "unrelated"))
    assert shares[0] == pytest.approx(100 * clean, abs=0.05)
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 4


def test_one_threshold_draws_no_curve(tmp_path):
    run = make_run(tmp_path / "run", n=20, eps=("4/255",), tasks=("cifar10",))
    assert "as the allowed change grows" not in html(summarise([load_run(run)]))


def test_main_report_writes_into_one_run_and_not_into_several(tmp_path, run):
    console = Console(width=80, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    summary = main_report([run], None, console)
    assert f"Report: {run / 'report.html'}" in console.export_text()
    other = make_run(tmp_path / "other", n=20, tasks=("digits",))
    main_report([run, other], None, console)
    assert "Report: nothing written" in console.export_text()
    assert not (other / "report.html").exists()
    merged = main_report([run, other], tmp_path / "out" / "merged", console)
    assert (tmp_path / "out" / "merged" / "report.html").exists()
    told = json.loads((tmp_path / "out" / "merged" / "summary.json").read_text())
    assert told == json.loads(json.dumps(merged.to_json()))
    alone = main_report([other], None, console)
    rows = {(row.model, row.task, row.threat): (row.n, row.clean, row.robust) for row in merged.rows}
    assert len(rows) == len(merged.rows) == 2 * 4 * 2 + 2
    assert rows == {
        (row.model, row.task, row.threat): (row.n, row.clean, row.robust) for row in (*summary.rows, *alone.rows)
    }
    console.file.close()


def test_a_report_that_cannot_be_written_is_one_line(summary, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write the report into .*file"):
        write(summary, tmp_path / "file")


def test_report_needs_neither_torch_nor_transformers(run):
    code = (
        "import sys, pathlib; from zsrobust import report, records, statistics\n"
        "report.main_report([pathlib.Path(sys.argv[1])], None)\n"
        "assert not {'torch', 'transformers', 'datasets', 'PIL'} & set(sys.modules), sorted(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert "unrelated" in done.stdout


def test_a_summary_prints_as_its_tables(summary):
    lines = [line.rstrip() for line in str(summary).splitlines()]
    assert lines == [line.rstrip() for line in printed(summary, 80).splitlines()]
    assert max(map(len, lines)) <= 80
