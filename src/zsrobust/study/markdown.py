"""All studies as one Markdown document: what they say about each claim, then each study by itself."""

from __future__ import annotations

from collections.abc import Sequence

from zsrobust.report.words import plural
from zsrobust.study import wording
from zsrobust.study.tables import TASK, main_table, markdown_table, tiers_in
from zsrobust.study.wording import Results

_COMMAND = "zsrobust study "


def document(every: Sequence[Results]) -> str:
    """The text, with links to the figures in ``figures/``."""
    specs = " ".join(results["command"].removeprefix(_COMMAND) for results in every)
    parts = [
        "# What the studies say\n",
        "Computed from the records of the runs, by\n",
        f"```\n{_COMMAND}{specs} --document FILE\n```\n",
        f"{wording.INTERVALS}\n",
        f"{wording.VERDICTS}\n",
    ]
    claims = wording.by_claim(every)
    if claims:
        parts.append("## Claims\n")
        parts.append(
            markdown_table(["claim", "on the headline's tier"], [[c, wording.headline(e)] for c, e in claims.items()])
        )
        parts += [_claim(claim, entries) for claim, entries in claims.items()]
    parts += [_study(results) for results in every]
    return "\n".join(parts)


def _claim(claim: str, entries: Sequence[tuple[Results, Results]]) -> str:
    parts = [f"### {claim}\n", f"**{wording.headline(entries)}**\n"]
    head = ["compared", "tasks", "higher, %", "lower, %", "difference, points", "verdict", "n", "study, seeds"]
    rows = [_verdict(results, entry, verdict) for results, entry in entries for verdict in entry["verdicts"]]
    parts.append(markdown_table(head, rows))
    for reason in wording.reasons(entries):
        parts.append(f"Likely reason where it does not hold: {reason}\n")
    commands = dict.fromkeys(results["command"] for results, _ in entries)
    parts.append(f"Command: {', '.join(f'`{command}`' for command in commands)}\n")
    return "\n".join(parts)


def _verdict(results: Results, entry: Results, verdict: Results) -> list[str]:
    headline = verdict is entry["verdicts"][0]
    change = verdict["change"]
    asks = f"{entry['asks']} ({entry['threat']})"
    seeds = len(change["seeds"]) if change else 0
    return [
        asks if headline else "",
        wording.tier_words(results, verdict["tier"]),
        wording.accuracy(verdict["higher"]),
        wording.accuracy(verdict["lower"]),
        wording.changed(verdict),
        (f"**{verdict['verdict']}**" if headline else verdict["verdict"]) + ("" if change else f": {verdict['note']}"),
        f"{change['n']:,}" if change else "–",
        f"{results['study']}, {plural(seeds, 'seed') if seeds else 'not adapted'}" if change else results["study"],
    ]


def _study(results: Results) -> str:
    lines = results["lines"]
    parts = [f"## {results['title']}\n", f"`{results['command']}`: {wording.seeds_words(results)}.\n"]
    if missing := wording.unfinished(results):
        parts.append(f"**Not complete**: {missing}.\n")
    parts += [f"- {noun}: {words}" for noun, words in wording.settings(results) if words] + [""]
    for alarm in (alarm for alarm in results["alarms"] if alarm["doubt"]):
        parts.append(f"**In doubt** ({places(alarm)}): {alarm['text'].rstrip('.')} ({alarm['name'] or 'alarm'}).\n")
    parts += [f"![{entry['title']}](figures/{wording.figure_file(results, entry)})\n" for entry in results["figures"]]
    for threat in results["threats"]:
        parts += [f"### {wording.threat_title(threat)}\n", *filter(None, [wording.everywhere(results)])]
        parts += [main_table(lines, threat, tiers_in(lines))]
        if threat == results["primary"]:
            table = main_table(lines, threat, [TASK + task["name"] for task in results["tasks"]])
            parts.append(f"<details><summary>Task by task</summary>\n\n{table}\n</details>\n")
    parts += [f"- {problem}" for problem in results["problems"]] + ([""] if results["problems"] else [])
    return "\n".join(parts)


def places(alarm: Results) -> str:
    """Where an alarm was raised, the first two of many."""
    where = alarm["places"]
    return "; ".join(where[:2]) + (f"; and {len(where) - 2} more" if len(where) > 2 else "")
