"""The report as one HTML file that loads nothing: styles, drawings and pictures are inside it."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from zsrobust.report import charts, quoting, view, words
from zsrobust.report.load import ModelPicture, Picture
from zsrobust.report.results import Alarm
from zsrobust.report.summary import Summary


def html(summary: Summary) -> str:
    """The whole page. Everything that comes from a run is escaped by the template engine."""
    names = view.short_names(summary)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=words.percent,
        whole_percent=words.whole_percent,
        points=words.points,
        span=words.span,
        signed_span=words.signed_span,
        pixels=words.pixels,
        short=lambda model: names.get(model, model),
    )
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text("utf-8"))
    return template.render(
        summary=summary,
        title=view.title(summary),
        tables=view.tables(summary),
        conditions=view.conditions,
        doubtful=[remark for remark in view.alarms(summary) if remark.alarm.doubt],
        remarks=[r.sentence for r in view.alarms(summary) if not r.alarm.doubt] + list(summary.notes),
        rows_of=view.rows_of,
        seed_lines=view.seed_lines,
        seeds_in_doubt=view.seeds_in_doubt,
        plural=words.plural,
        two_class_rows=view.two_class_rows,
        defended_rows=view.defended_rows,
        two_numbers=view.two_numbers,
        two_numbers_words=words.TWO_NUMBERS,
        told_apart=words.told_apart_words,
        facts_of=facts_of,
        tracks=charts.tracks,
        panels=charts.panels(summary),
        upper_bound=words.UPPER_BOUND,
        quotations=quoting.quotations,
        quoting=quoting,
        threats={threat.text: threat for threat in summary.threats},
        verdict=verdict,
        size=size,
    )


def facts_of(alarm: Alarm) -> list[str]:
    """The evidence of an alarm, ``black box broke 5``."""
    return [
        f"{key.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{key.replace('_', ' ')} {value}"
        for key, value in alarm.evidence.items()
    ]


def verdict(shown: ModelPicture) -> str:
    """What became of the prediction, in words; says so if rounding to 8 bits (a PNG file) changes it."""
    sentence = "Broken" if shown.verdict == "broken" else "Survived"
    if shown.verdict_8bit != shown.verdict:
        sentence += f" (but {shown.verdict_8bit} once rounded to 8 bits)"
    return sentence


def size(picture: Picture, shown: ModelPicture, norms: dict[str, words.Threat]) -> str:
    """How far the image was moved, in the unit of its threat."""
    threat = norms.get(picture.threat) or words.parse_threat(picture.threat)
    if threat.norm == "linf":
        return f"no pixel moved by more than {words.pixels(shown.size)}"
    if threat.norm == "patch":
        return f"changed within a square of {100 * shown.size:.3g} % of the area"
    return f"moved by {shown.size:.3g} ({threat.norm})"
