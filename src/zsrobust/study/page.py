"""One HTML file with all studies of a folder: claims first, then each study's figures and tables. It loads nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from zsrobust.run_folder import write_atomically
from zsrobust.study import drawing, tables, wording
from zsrobust.study.document import read_all
from zsrobust.study.markdown import places
from zsrobust.study.wording import Results

_STYLE = re.compile(r"<style>(.*?)</style>", re.S)
# Colours of the drawings → those of the page, which has a dark one too.
_COLOURS = {
    drawing.INK: "var(--ink)",
    drawing.SOFT: "var(--soft)",
    drawing.RULE: "var(--rule)",
    drawing.PAPER: "var(--paper)",
    **{colour: f"var(--s{i})" for i, colour in enumerate(drawing.PALETTE) if i > 0},
}
_ANCHOR = re.compile(r'(\bid="|(?:xlink:)?href="#|url\(#)')


def write(studies: str | Path) -> Path:
    """Write ``index.html`` into a folder of studies.

    Returns:
        Its path.

    Raises:
        ZSRobustError: no study with a finished cell, or one whose results cannot be computed.
    """
    folder = Path(studies)
    every = read_all(folder)
    drawings = {
        (results["folder"], entry["svg"]): inline(
            (folder / results["folder"] / entry["svg"]).read_text("utf-8"), f"{i}-{k}-", entry["title"]
        )
        for i, results in enumerate(every)
        for k, entry in enumerate(results["figures"])
    }
    write_atomically(folder / "index.html", html(every, drawings).encode())
    return folder / "index.html"


def html(every: Sequence[Results], drawings: Mapping[tuple[str, str], Markup]) -> str:
    """The whole page. All text is escaped by the template engine; ``drawings`` are our own SVG."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    look = _STYLE.search(files("zsrobust.report").joinpath("report.html.j2").read_text("utf-8"))
    assert look is not None
    template = environment.from_string(files("zsrobust.study").joinpath("study.html.j2").read_text("utf-8"))
    return template.render(
        look=Markup(look[1]),
        every=every,
        drawings=drawings,
        claims=wording.by_claim(every),
        wording=wording,
        tables=tables,
        places=places,
    )


def inline(svg: str, prefix: str, title: str) -> Markup:
    """A drawing of ours as part of a page: ids of its own, and the page's colours."""
    text = svg[svg.index("<svg") :]
    text = _ANCHOR.sub(lambda found: found[1] + prefix, text)
    for colour, name in _COLOURS.items():
        text = text.replace(colour, name)
    text = re.sub(r' (height|width)="[\d.]+pt"', "", text, count=2)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(title)}" ', 1)
    return Markup(text)
