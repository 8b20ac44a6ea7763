"""How far an adapted model's embeddings moved from the original's, and what that does to an index of images.

For an image i, u_i is the original's embedding and v_i the adapted model's, both of length one. Three searches among
the same images are compared, by cosine, the queried image itself left out:

    before        query u_i, index {u_j}     what the product does with the original
    mixed         query v_i, index {u_j}     the model was changed, the index was not
    re-indexed    query v_i, index {v_j}     both were changed

A text query goes through the same three, with the text towers in place of the visual ones. Definitions are in
:class:`Finding`; nothing here is attacked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from zsrobust.drift.nearest import Array, Finding, findings, search
from zsrobust.drift.pairs import Pictures, embed, from_folder, from_task
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, UnknownName
from zsrobust.evaluation import device_of, fingerprint_of
from zsrobust.passes import frozen
from zsrobust.statistics import Estimate
from zsrobust.tasks.base import Task
from zsrobust.text_head import TextHead

Decision = Literal["keep", "re-index", "either", "undecided"]

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_SAME = 1e-5  # texts whose unit embeddings differ by less come from the same tower; float32 rounds about a tenth of it
_ROUNDING = 1e-9  # an end of an interval that is 0 but for the rounding of a sum is 0
_CHUNK = 8192  # rows in float64 at once


@dataclass(frozen=True)
class Spread:
    """One number for each image: its mean, with a 95 % interval (normal approximation), and quantiles over images."""

    mean: Estimate
    quantiles: Mapping[float, float]
    n: int


@dataclass(frozen=True)
class Drift:
    """What :func:`drift` measured.

    Attributes:
        original: Name of the model that made the index.
        adapted: Name of the other.
        images: Name of the task, or the folder.
        n: Different images.
        cosine: Between u_i and v_i of the same image, in [−1, 1].
        strangers: Mean of u_i · u_j over different images, without which a cosine says nothing: CLIP's embeddings lie
            in a narrow cone.
        norm_ratio: Length of the adapted model's embedding over that of the original's, before normalisation.
        findings: What searches return.
        same_texts: Whether both models embed the text queries alike; None without text queries.
        accept: Share of former neighbours that have to come back for the old index to stay.
        of: Images before any limit.
        limit: Limit and seed that were asked for; None: all.
        duplicates: Images left out because another one gives both models the same pixels.
        bad_images: Unreadable ones left out, with the reason.
        notes: What a reader has to know, as sentences.
    """

    original: str
    adapted: str
    images: str
    n: int
    cosine: Spread
    strangers: float
    norm_ratio: Spread
    findings: tuple[Finding, ...]
    same_texts: bool | None
    accept: float
    of: int
    limit: tuple[int, int] | None
    duplicates: int
    bad_images: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def finding(self, queries: str, measure: str, k: int) -> Finding | None:
        """The one with these three; None if it was not measured."""
        same = [one for one in self.findings if (one.queries, one.measure, one.k) == (queries, measure, k)]
        return same[0] if same else None

    @property
    def decisive(self) -> Finding:
        """Former neighbours that come back to image queries, at the largest ``k``."""
        former = [one for one in self.findings if (one.queries, one.measure) == ("images", "former")]
        return max(former, key=lambda one: one.k)

    @property
    def by_class(self) -> Finding | None:
        """Whether what image queries return is of their class, at the largest ``k``; None without classes."""
        return self.finding("images", "class", self.decisive.k)

    @property
    def decision(self) -> Decision:
        """Whether the index of the original can serve the adapted model's image queries.

        ``"keep"``: the interval of the mixed search's former neighbours lies at or above ``accept``. Where it lies
        below: ``"re-index"`` if re-indexing brings back more of them, or more neighbours of the query's class (the
        interval of the gain lies above 0); else ``"either"``: results change either way. ``"undecided"``: the interval
        holds ``accept``.
        """
        low, high = self.decisive.mixed.interval
        if low >= self.accept:
            return "keep"
        if high >= self.accept:
            return "undecided"
        gains = [one.gain.interval[0] > _ROUNDING for one in (self.decisive, self.by_class) if one is not None]
        return "re-index" if any(gains) else "either"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON."""
        told = asdict(self)
        for name in ("cosine", "norm_ratio"):
            told[name]["quantiles"] = {f"{q:g}": value for q, value in getattr(self, name).quantiles.items()}
        return {**told, "decision": self.decision}


def drift(
    original: Encoder,
    adapted: Encoder,
    images: str | Path | Task,
    *,
    k: Sequence[int] = (1, 10),
    limit: int | None = None,
    seed: int = 0,
    texts: Sequence[str] = (),
    accept: float = 0.9,
    on_bad_image: Literal["stop", "skip"] = "stop",
    batch_size: int = 64,
    progress: bool = True,
) -> Drift:
    """How far ``adapted`` moved from ``original`` on these images, and what searches among them return.

    Each model gets the images through its own PIL geometry, as in a product, and the corruption of a task comes after
    it, as in the space ``model``; embeddings are float32. Images that give both models the same pixels as an earlier
    one are left out: which of the two is returned would be luck.
    Memory: the embeddings, one batch of images, and three times :data:`zsrobust.drift.nearest.BLOCK` cosines.

    Args:
        original: The model that made the index.
        adapted: A model that embeds in the same number of dimensions.
        images: A folder of images at any depth, or a task, whose classes are then used: class names as text queries,
            labels to see whether neighbours are of one class.
        k: How many images a search returns; each at least 1, and at most two less than there are different images.
        limit: At most so many images, drawn at random, from a task stratified by class; None: all.
        seed: Of the limit and of the intervals.
        texts: Text queries of one's own, in place of a task's class names.
        accept: See :attr:`Drift.decision`; in (0, 1].
        on_bad_image: ``"stop"`` raises at an unreadable image, ``"skip"`` leaves it out and lists it.
        batch_size: Images in a forward pass.
        progress: Show a bar, on a terminal.

    Raises:
        ConfigError: an argument is not allowed, there are too few images for ``k``, or a task is corrupted and the
            models' input sizes differ.
        DataError: the folder is missing or has no image, or an image is unreadable.
        ModelError: the widths differ, or a feature is not finite or zero.
    """
    check(
        k=k, limit=limit, seed=seed, texts=texts, accept=accept, on_bad_image=on_bad_image, batch_size=batch_size
    )  # fmt: skip
    ks = sorted(set(k))
    pictures = opened(images, k=ks, limit=limit, seed=seed)
    old, new, kept = embed((original, adapted), pictures, batch_size, on_bad_image == "skip", progress)
    n = len(kept.positions)
    _enough(ks, n)
    shown = pictures.only(kept.positions)
    means, same_texts = _searched((original, adapted), (old, new), shown, ks, texts, seed, progress)
    cosines, ratios = _moved(old, new)
    return Drift(
        original=original.name,
        adapted=adapted.name,
        images=pictures.name,
        n=n,
        cosine=_spread(cosines),
        strangers=_strangers(old),
        norm_ratio=_spread(ratios),
        findings=tuple(means),
        same_texts=same_texts,
        accept=accept,
        of=pictures.of,
        limit=None if limit is None else (limit, seed),
        duplicates=kept.duplicates,
        bad_images=tuple(kept.bad),
        notes=tuple(_notes(original, adapted, pictures)),
    )


def check(
    *,
    k: Sequence[int],
    limit: int | None,
    seed: int,
    texts: Sequence[str],
    accept: float,
    on_bad_image: str,
    batch_size: int,
) -> None:
    """Whether :func:`drift` takes these arguments; before there are models or images.

    Raises:
        ConfigError: one of them is not allowed.
    """
    if min(k, default=0) < 1:
        raise ConfigError(f"k must be whole numbers of at least 1, not {list(k)}")
    for name, value, least in (("limit", limit, 1), ("seed", seed, 0), ("batch_size", batch_size, 1)):
        if value is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")
    if not 0 < accept <= 1:
        raise ConfigError(f"accept must be a share above 0 and at most 1, not {accept}")
    if on_bad_image not in ("stop", "skip"):
        raise UnknownName("on_bad_image", on_bad_image, ("stop", "skip"))
    if isinstance(texts, str) or any(not text.strip() for text in texts):
        raise ConfigError("texts must be a list of texts that are not empty")


def opened(images: str | Path | Task, *, k: Sequence[int], limit: int | None, seed: int) -> Pictures:
    """The images that :func:`drift` would embed, none of them read; its arguments.

    Raises:
        ConfigError: there are too few images for ``k``.
        DataError: the folder is missing or has no image.
    """
    pictures = from_task(images) if isinstance(images, Task) else from_folder(Path(images).expanduser())
    chosen = pictures if limit is None else pictures.take(limit, seed)
    _enough(k, len(chosen.rows))
    return chosen


def _enough(ks: Sequence[int], n: int) -> None:
    if max(ks) > n - 2:
        fits = f"k of at most {n - 2} fits" if n > 2 else "at least 3 are needed"
        raise ConfigError(f"k = {max(ks)} is too many for {n} different images: {fits}")


def _searched(
    models: tuple[Encoder, Encoder],
    features: tuple[Tensor, Tensor],
    pictures: Pictures,
    ks: Sequence[int],
    texts: Sequence[str],
    seed: int,
    progress: bool,
) -> tuple[list[Finding], bool | None]:
    """What searches return, and whether the text queries are the same for both models."""
    device = device_of(models[0])
    index = normalize(features[0], dim=1).to(device), normalize(features[1], dim=1).to(device)
    n = len(index[0])
    labels = None if pictures.labels is None else torch.from_numpy(pictures.labels).to(device)
    classes = None if labels is None else (labels, labels)
    found = search(index, index, ks, themselves=True, classes=classes, progress=progress)
    means = findings("images", found, n - 1, seed)
    if not texts and labels is None:
        return means, None
    (old, new), same = _text_queries(models, pictures, texts)
    wanted = None if texts or labels is None else (torch.arange(len(old)).to(labels), labels)
    asked = old.to(device), new.to(device)
    found = search(asked, index, ks, themselves=False, classes=wanted, progress=False)
    return means + findings("texts", found, n, seed), same


def _text_queries(
    models: tuple[Encoder, Encoder], pictures: Pictures, texts: Sequence[str]
) -> tuple[tuple[Tensor, Tensor], bool]:
    """Unit embeddings (T, D) of the queries by both models, and whether these are the same."""
    with torch.no_grad(), frozen(models[0]), frozen(models[1]):
        if texts:
            old, new = (normalize(model.encode_texts(list(texts)).float(), dim=1).cpu() for model in models)
        else:
            names, templates = pictures.class_names, pictures.templates
            old, new = (TextHead.build(model, names, templates).embeddings.cpu() for model in models)
    same = bool((old - new).norm(dim=1).max() < _SAME)
    return (old, old if same else new), same


def _moved(old: Tensor, new: Tensor) -> tuple[Array, Array]:
    """(n,) cosine of each pair of rows, and (n,) ratio of their lengths, new over old."""
    cosines, ratios = [], []
    for a, b in zip(torch.split(old, _CHUNK), torch.split(new, _CHUNK), strict=True):
        one, other = a.double(), b.double()
        lengths = one.norm(dim=1), other.norm(dim=1)
        cosines.append(((one * other).sum(1) / (lengths[0] * lengths[1])).clamp(-1, 1).numpy())
        ratios.append((lengths[1] / lengths[0]).numpy())
    return np.concatenate(cosines), np.concatenate(ratios)


def _strangers(old: Tensor) -> float:
    """Mean of u_i · u_j over i ≠ j: (|Σ u|² − n) / (n (n − 1))."""
    total = torch.stack([normalize(part.double(), dim=1).sum(0) for part in torch.split(old, _CHUNK)]).sum(0)
    return (float(total.square().sum()) - len(old)) / (len(old) * (len(old) - 1))


def _spread(values: Array) -> Spread:
    half = NormalDist().inv_cdf(0.975) * float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    quantiles = {q: float(value) for q, value in zip(_QUANTILES, np.quantile(values, _QUANTILES), strict=True)}
    return Spread(Estimate(mean, (mean - half, mean + half)), quantiles, len(values))


def _notes(original: Encoder, adapted: Encoder, pictures: Pictures) -> list[str]:
    notes = [pictures.note] if pictures.note else []
    if fingerprint_of(original) == fingerprint_of(adapted):
        notes.append("both models are the same: nothing could move")
    for model in (original, adapted):
        if getattr(model, "samples", 1) != 1:
            notes.append(f"'{model.name}' is random: every image was embedded once, and would be elsewhere next time")
    if original.geometry != adapted.geometry:
        ways = f"{original.geometry.describe()} and {adapted.geometry.describe()}"
        notes.append(f"the models prepare images differently ({ways}): part of the change is that")
    return notes
