"""Sentences and numbers that the document and the page of studies share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zsrobust.report.words import TIERS, UPPER_BOUND, parse_threat, percent, plural, points, signed_span
from zsrobust.study.results import level_name, name_of

Results = Mapping[str, Any]
"""What ``results.json`` of a study holds, or a part of it."""

INTERVALS = (
    "Accuracies in %, each task weighing the same; in brackets the 95 % interval. It covers the choice of images and, "
    "with several seeds, the luck of the training; with one seed it covers the images only. "
    + UPPER_BOUND.split(". ")[0]
    + ". ! marks a robust accuracy that an alarm puts in doubt."
)
VERDICTS = (
    "A difference is paired: both models on the same images, averaged over seeds. A claim holds where the 95 % "
    "interval of the difference lies above the margin that is claimed (0 unless said), goes the other way round where "
    "it lies below 0 and the margin does not, does not hold where it lies below the margin otherwise, and is not told "
    "apart where the margin is inside. "
    "Each comparison stands by itself unless it says that it is corrected (Bonferroni): of forty without any "
    "difference about one would seem to hold. The first line of each is the headline."
)


def threat_title(text: str) -> str:
    """``ε = 4/255: every pixel may change by …``."""
    threat = parse_threat(text)
    return f"{threat.short}: {threat.words}"


def everywhere(results: Results) -> str:
    """What every robust accuracy of a study has against it, so that no single one says it; a line, or empty."""
    texts = [alarm["text"].rstrip(".") for alarm in results["everywhere"] if alarm["doubt"]]
    return f"All robust accuracies of {results['study']}: {'; '.join(texts)}.\n" if texts else ""


def seeds_words(results: Results) -> str:
    """``3 seeds``, and said so if there is but one."""
    seeds = results["seeds"]
    if len(seeds) == 1:
        return f"one seed ({seeds[0]}): intervals cover the images only"
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))})" if seeds else "no adapted model"


def changed(verdict: Results) -> str:
    """``+10.7 (8.4 to 13.1)``, in points."""
    change = verdict["change"]
    return f"{points(change['value'])} ({signed_span(change['interval'])})" if change else "–"


def accuracy(score: Results | None) -> str:
    """``41.0`` with ! where it is in doubt."""
    return "–" if score is None else percent(score["value"]) + ("!" if score["doubt"] else "")


def by_seed(change: Results) -> str:
    """``3 seeds: +4.1, +8.2, +10.7``: the differences of the single seeds."""
    if not change["seeds"]:
        return "not adapted"
    return f"{plural(len(change['seeds']), 'seed')}: {', '.join(points(value) for value in change['by_seed'])}"


def figure_file(results: Results, entry: Results) -> str:
    """What a figure is called among those of all studies."""
    return f"{results['folder']}-{Path(entry['svg']).name}"


def by_claim(every: Sequence[Results]) -> dict[str, list[tuple[Results, Results]]]:
    """Claim → (study, entry), over all studies."""
    found: dict[str, list[tuple[Results, Results]]] = {}
    for results in every:
        for entry in results["claims"]:
            found.setdefault(entry["claim"], []).append((results, entry))
    return found


def headline(entries: Sequence[tuple[Results, Results]]) -> str:
    """``holds``, or ``holds in 2 of 3 comparisons, not told apart in 1``."""
    counts: dict[str, int] = {}
    for _, entry in entries:
        verdict = entry["verdicts"][0]["verdict"]
        counts[verdict] = counts.get(verdict, 0) + 1
    if len(counts) == 1:
        (verdict,) = counts
        return verdict if len(entries) == 1 else f"{verdict} in all of {len(entries)} comparisons"
    first, *rest = counts.items()
    return ", ".join([f"{first[0]} in {first[1]} of {len(entries)} comparisons", *(f"{v} in {n}" for v, n in rest)])


def reasons(entries: Sequence[tuple[Results, Results]]) -> list[str]:
    """Likely reasons of those comparisons that do not hold; where these have none of their own, those of the claim."""
    failed = [entry for _, entry in entries if entry["verdicts"][0]["verdict"] not in ("holds", "not measured")]
    told = [e["reason"] for e in failed if e["reason"]] or [e["reason"] for _, e in entries if failed and e["reason"]]
    return list(dict.fromkeys(told))


def tier_words(results: Results, tier: str) -> str:
    """``unrelated (6 tasks)``."""
    n = sum(1 for task in results["tasks"] if tier in ("all", task["tier"]))
    return f"{tier} ({plural(n, 'task')})"


def unfinished(results: Results) -> str:
    """How many cells are missing; empty if none is."""
    missing = results["planned"] - results["finished"]
    return f"{plural(missing, 'cell')} of {results['planned']} without results" if missing else ""


def time_words(results: Results) -> str:
    """``adaptation 31 min, evaluation at least 12 min``, added over all cells."""
    nouns = {"adapt": "adaptation", "tune": "tuning (values not chosen)", "evaluate": "evaluation"}
    times = [(kind, noun, results["seconds"][kind]) for kind, noun in nouns.items()]
    less = results["seconds"]["at_least"]
    return ", ".join(f"{n} {_duration(t, k in less)}" for k, n, t in times if t or k != "tune" or k in less)


def _duration(seconds: float, or_more: bool) -> str:
    if or_more and not seconds:
        return "not known"
    shown = f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
    return "at least " * or_more + (f"{seconds:.0f} s" if seconds < 90 else shown)


def settings(results: Results) -> list[tuple[str, str]]:
    """What all cells of a study share, as (noun, words)."""
    recipe = results["recipe"]
    tasks = {tier: [t["name"] for t in results["tasks"] if t["tier"] == tier] for tier in TIERS}
    sizes = sorted({task["n"] for task in results["tasks"]})
    each = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    attacks = dict.fromkeys(name for names in results["attacks"].values() for name in names)
    return [
        ("Tasks", "; ".join(f"{tier}: {', '.join(names)}" for tier, names in tasks.items() if names)),
        ("Images", f"{each} a task"),
        ("Threats", ", ".join(results["threats"])),
        ("Attacks", " + ".join(attacks)),
        ("Seeds", seeds_words(results)),
        ("Adapted", _options(recipe.get("adapt") or {})),
        (
            "Axes",
            "; ".join(f"{axis}: {', '.join(map(str, levels))}" for axis, levels in (recipe.get("axes") or {}).items()),
        ),
        ("Tuning", _tuning(recipe.get("tune") or {})),
        ("Time", time_words(results)),
    ]


def _options(options: Results) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "defaults"


def _tuning(tune: Results) -> str:
    if not tune:
        return "none"
    if "from" in tune:
        return f"{tune.get('option', 'lr')} as chosen in {tune['from']}"
    values, option = tune["values"], tune.get("option", "lr")
    of_levels = next(iter(values.values())).values() if isinstance(values, Mapping) else [values]
    fewest, most = min(map(len, of_levels)), max(map(len, of_levels))
    if most == 1:
        return f"{option}: one value for every combination, nothing was chosen here"
    number = f"{most} values" if fewest == most else f"{fewest} to {most} values"
    return (
        f"{option}: {number} for every combination, of which the best robust accuracy on "
        f"{tune.get('images', 200)} held-out images of the adaptation task, seed {tune.get('seed', 0)} (a method "
        "without an adversary: the best clean one)"
    )


def tuning_rows(results: Results) -> list[list[str]]:
    """What was tried: combination, value, held-out accuracies, what became of it."""
    return [
        [
            name_of({str(axis): level_name(level) for axis, level in entry["levels"].items()}),
            f"{entry['value']:g}",
            *("–" if entry.get(key) is None else percent(entry[key]) for key in ("held_out_clean", "held_out_robust")),
            "diverged" if entry.get("diverged") else "chosen" if entry.get("chosen") else "",
        ]
        for entry in results["tuning"]
    ]
