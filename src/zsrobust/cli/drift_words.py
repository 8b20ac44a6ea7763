"""What ``zsrobust drift`` prints.

Apart from the options, because jsonargparse resolves every import of their module, those for type checkers too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table as Grid

from zsrobust.drift import Drift
from zsrobust.drift.nearest import Finding
from zsrobust.report.words import percent, span
from zsrobust.statistics import Estimate

_MEASURES = {
    ("images", "former"): "former {k} nearest",
    ("images", "itself"): "itself within {k} nearest",
    ("images", "class"): "{k} nearest of its class",
    ("texts", "former"): "former {k} best",
    ("texts", "class"): "{k} best of the class",
}


def verdict(found: Drift) -> Iterator[str]:
    """Sentences that the numbers bear out, the decision first."""
    one, classes = found.decisive, found.by_class
    mixed, anew = _share(one.mixed), _share(one.reindexed)
    nearest = f"the {one.k} nearest images" if one.k > 1 else "the nearest images"
    back = f"queries of {found.adapted} get {mixed} of {nearest} that {found.original} returned"
    if found.decision == "keep":
        yield f"The old index can stay: from it, {back}."
    elif found.decision == "undecided":
        yield f"Undecided on {found.n:,} images: from the old index, {back}. More images would narrow the interval."
    elif found.decision == "re-index":
        yield f"Re-index: from the old index, {back}; from a new one {anew}."
    else:
        yield (
            f"Results change either way: from the old index, {back}; from a new one {anew}. This does not say which "
            "results are better."
        )
    if classes is not None:
        low, high = classes.gain.interval
        apart = "not told apart" if low <= 1e-9 and high >= -1e-9 else "better" if low > 0 else "worse"
        yield (
            f"Neighbours of the query's class: {_share(classes.mixed)} from the old index, {_share(classes.reindexed)} "
            f"from a new one ({apart}), and {_share(classes.before)} before."
        )
    if found.decision == "re-index" and one.reindexed.interval[1] < found.accept:
        yield "A new index does not bring the former results back: it returns the adapted model's own."
    yield from _of_texts(found)
    yield (
        f"All this is in an index of {found.n:,} images; in a larger one neighbours lie closer, and as a rule fewer "
        "of them come back."
    )


def rule(found: Drift) -> str:
    """How the decision was made."""
    k, share = found.decisive.k, f"{100 * found.accept:g} %"
    better = " or more neighbours of the query's class" if found.by_class is not None else ""
    return (
        f"the old index can stay if, with new queries, at least {share} of the former {k} nearest come back (the whole "
        f"95 % interval); with less (the whole interval), re-index if that brings back more of them{better} (interval "
        "of the difference above 0), else results change either way; otherwise undecided."
    )


def _of_texts(found: Drift) -> Iterator[str]:
    one = found.finding("texts", "former", found.decisive.k)
    if one is None:
        return
    asked = f"{_share(one.reindexed)} of the former {one.k} best (n = {one.n} texts)"
    if found.same_texts:
        yield (
            f"Text queries: the text tower is unchanged, so the old index answers as before; a new one returns {asked}."
        )
    else:
        yield (
            f"Text queries: the text tower changed too; of the former {one.k} best the old index returns "
            f"{_share(one.mixed)}, a new one {asked}."
        )


def _share(estimate: Estimate | None) -> str:
    """``61.0 % (58.9–63.1)``."""
    assert estimate is not None
    return f"{percent(estimate.value)} % ({span(estimate.interval)})"


def _ends(estimate: Estimate) -> str:
    return "–".join(f"{end:.3f}" for end in estimate.interval)


def tell(found: Drift) -> None:
    """Prints the numbers of one set of images, the verdict and its rule."""
    console = Console(highlight=False, markup=False, soft_wrap=False)
    images = f"{found.images}, {found.n:,} images" + (f" of {found.of:,}" if found.n < found.of else "")
    print(f"\nImages   {images}" + (f", {found.duplicates:,} duplicates left out" if found.duplicates else ""))
    quantiles, moved = found.cosine.quantiles, found.cosine.mean
    print(f"Cosine   new to old embedding of an image {moved.value:.3f} ({_ends(moved)}),")
    print(f"         5 % of images below {quantiles[0.05]:.3f}, half below {quantiles[0.5]:.3f}, ", end="")
    print(f"lowest {quantiles[0.0]:.3f};")
    print(f"         old embeddings of two different images {found.strangers:.3f}")
    length, quantiles = found.norm_ratio.mean, found.norm_ratio.quantiles
    print(
        f"Length   new / old {length.value:.3f} ({_ends(length)}), "
        f"9 in 10 images {quantiles[0.05]:.3f}–{quantiles[0.95]:.3f}\n"
    )
    console.print(_table(found))
    for i, sentence in enumerate(verdict(found)):
        _print("Verdict" if i == 0 else "", sentence)
    _print("Rule", rule(found))
    if found.bad_images:
        _print("Note", f"{len(found.bad_images):,} unreadable images left out; the first: {found.bad_images[0]}")
    for note in found.notes:
        _print("Note", note)


def _print(noun: str, sentence: str) -> None:
    print(textwrap.fill(sentence, 80, initial_indent=f"{noun:<9}", subsequent_indent=" " * 9))


def _table(found: Drift) -> object:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("in % (95 % interval)\nquery by model\nindex by model", no_wrap=True)
    for head in ("\n\nn", "\nold\nold", "\nnew\nold", "\nnew\nnew", "\n\nluck"):
        grid.add_column(head, justify="right", no_wrap=True)
    shown = ""
    for one in found.findings:
        if one.queries != shown:
            grid.add_row("An image is the query" if one.queries == "images" else "A text is the query", style="bold")
            shown = one.queries
        grid.add_row(*_cells(one, found.same_texts))
    return grid


def _cells(one: Finding, same_texts: bool | None) -> list[str]:
    label = _MEASURES[one.queries, one.measure].format(k=one.k)
    as_before = one.queries == "texts" and same_texts
    mixed = f"{percent(one.mixed.value)} ({span(one.mixed.interval, 0)})"
    return [
        f"  {label}",
        f"{one.n:,}",
        "100" if one.before is None else percent(one.before.value),
        "as before" if as_before else mixed,
        f"{percent(one.reindexed.value)} ({span(one.reindexed.interval, 0)})",
        "" if one.chance is None else percent(one.chance),
    ]
