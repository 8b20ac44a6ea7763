"""All studies as one Markdown document: what they say about each claim, then each study by itself."""

from __future__ import annotations

from collections.abc import Sequence

from zsrobust.report.words import plural
from zsrobust.study.tables import main_table, markdown_table, threats_in, tiers_in
from zsrobust.study.wording import (
    INTERVALS,
    Results,
    accuracy,
    by_claim,
    changed,
    figure_file,
    headline,
    reasons,
    seeds_words,
    settings,
    threat_title,
    tier_words,
    unfinished,
)


def document(every: Sequence[Results]) -> str:
    """The text, with links to the figures in ``figures/``."""
    commands = " ".join(results["study"] for results in every)
    parts = [
        "# What the studies say\n",
        "Computed from the records of the runs, by\n",
        f"```\nzsrobust study {commands} --document FILE\n```\n",
        f"{INTERVALS}\n",
        "A difference is paired: both models on the same images, averaged over seeds. A claim *holds* where the 95 % "
        "interval of the difference lies above the margin that is claimed (0 unless said), goes *the other way round* "
        "where it lies below 0, and is *not told apart* where the margin is inside. Each comparison stands by itself: "
        "of forty without any difference about one would seem to hold.\n",
    ]
    claims = by_claim(every)
    if claims:
        parts.append("## Claims\n")
        parts.append(markdown_table(["claim", "on the headline's tier"], [[c, headline(e)] for c, e in claims.items()]))
        parts += [_claim(claim, entries) for claim, entries in claims.items()]
    parts += [_study(results) for results in every]
    return "\n".join(parts)


def _claim(claim: str, entries: Sequence[tuple[Results, Results]]) -> str:
    parts = [f"### {claim}\n", f"**{headline(entries)}**\n"]
    head = ["compared", "tasks", "higher, %", "lower, %", "difference, points", "verdict", "n", "study, seeds"]
    rows = [_verdict(results, entry, verdict) for results, entry in entries for verdict in entry["verdicts"]]
    parts.append(markdown_table(head, rows))
    for reason in reasons(entries):
        parts.append(f"Likely reason where it does not hold: {reason}\n")
    commands = dict.fromkeys(results["command"] for results, _ in entries)
    parts.append(f"Command: {', '.join(f'`{command}`' for command in commands)}\n")
    return "\n".join(parts)


def _verdict(results: Results, entry: Results, verdict: Results) -> list[str]:
    headline = verdict is entry["verdicts"][0]
    change = verdict["change"]
    asks = f"{entry['asks']} ({entry['threat']})" + (f"; {verdict['note']}" if change and verdict["note"] else "")
    seeds = len(change["seeds"]) if change else 0
    return [
        asks if headline else "",
        tier_words(results, verdict["tier"]),
        accuracy(verdict["higher"]),
        accuracy(verdict["lower"]),
        changed(verdict),
        (f"**{verdict['verdict']}**" if headline else verdict["verdict"]) + ("" if change else f": {verdict['note']}"),
        f"{change['n']:,}" if change else "–",
        f"{results['study']}, {plural(seeds, 'seed') if seeds else 'not adapted'}" if change else results["study"],
    ]


def _study(results: Results) -> str:
    parts = [f"## {results['title']}\n", f"`{results['command']}`: {seeds_words(results)}.\n"]
    if missing := unfinished(results):
        parts.append(f"**Not complete**: {missing}.\n")
    parts += [f"- {noun}: {words}" for noun, words in settings(results) if words] + [""]
    for alarm in (alarm for alarm in results["alarms"] if alarm["doubt"]):
        parts.append(f"**In doubt** ({places(alarm)}): {alarm['text'].rstrip('.')} ({alarm['name'] or 'alarm'}).\n")
    for entry in results["figures"]:
        parts.append(f"![{entry['title']}](figures/{figure_file(results, entry)})\n")
        parts += [f"{note}\n" for note in entry["notes"]]
    for threat in threats_in(results["lines"]):
        parts.append(f"### {threat_title(threat)}\n")
        tiers = tiers_in(results["lines"])
        parts.append(markdown_table(*main_table(results["lines"], threat, tiers)))
        if threat == results["primary"]:
            tasks = [f"task {task['name']}" for task in results["tasks"]]
            table = markdown_table(*main_table(results["lines"], threat, tasks))
            parts.append(f"<details><summary>Task by task</summary>\n\n{table}\n</details>\n")
    parts += [f"- {problem}" for problem in results["problems"]] + ([""] if results["problems"] else [])
    return "\n".join(parts)


def places(alarm: Results) -> str:
    """Where an alarm was raised, the first two of many."""
    where = alarm["places"]
    return "; ".join(where[:2]) + (f"; and {len(where) - 2} more" if len(where) > 2 else "")
