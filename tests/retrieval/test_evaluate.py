"""A retrieval run on disk: what it holds, that it goes on, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fakes import Toy
from tests.retrieval.toys import captioned
from torch import Tensor

from zsrobust.defences import wrapped
from zsrobust.errors import ConfigError, ModelError, RunError
from zsrobust.retrieval import evaluate as evaluation
from zsrobust.retrieval.evaluate import evaluate_retrieval
from zsrobust.retrieval.ranks import ranks
from zsrobust.retrieval.records import Found, read_records
from zsrobust.retrieval.summary import IMAGE_TO_TEXT, Summary
from zsrobust.threat import Threat

MANY = [[f"text {i}", f"other {i}"] for i in range(12)]
STRONG = "linf:16/255:native"


def evaluated(run: Path, models: Sequence[Toy] | None = None, **options: Any) -> Summary:
    options = {"attacks": ["pgd:2"], "threat": STRONG, "rows": 4, "captions": captioned(MANY)} | options
    return evaluate_retrieval(models or [Toy()], options.pop("captions"), run=run, **options)


def test_a_run_holds_what_its_numbers_are_made_of(tmp_path: Path) -> None:
    captions, threat = captioned(MANY), Threat.parse(STRONG)
    models = [Toy(), Toy(name="other", seed=1)]
    summary = evaluated(tmp_path, models, attacks=["pgd:2", "apgd:ce:steps=2"])
    records = read_records(tmp_path / "records.jsonl")
    assert len(records) == len({(r.model, r.attack, r.example) for r in records}) == 2 * 3 * 12
    found = [Found(**json.loads(line)) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    texts = torch.nn.functional.normalize(models[0].encode_texts(captions.texts), dim=-1).numpy()
    features = np.stack([line.vector for line in found if (line.model, line.attack) == ("toy", "pgd:2")])
    seen = [r for r in records if (r.model, r.attack) == ("toy", "pgd:2")]
    assert [r.rank for r in seen] == ranks(features, texts, captions.own_texts).tolist()
    assert [k for r in seen for k in r.text_ranks] == ranks(texts, features, captions.owners).tolist()
    clean = {(r.model, r.example): r.rank for r in records if r.attack == "clean"}
    assert all(r.rank >= clean[r.model, r.example] for r in records)
    assert any(r.rank > clean[r.model, r.example] for r in records)
    assert all(r.size == 0 for r in records if r.attack == "clean")
    assert bool(threat.allows(torch.tensor([r.size for r in records])).all())
    ones = {r.attack: r.found for r in summary.recalls if (r.model, r.direction, r.k) == ("toy", IMAGE_TO_TEXT, 1)}
    assert ones["clean"] == np.mean([rank == 1 for (model, _), rank in clean.items() if model == "toy"])
    assert ones["all attacks"] <= min(ones.values())
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(summary.to_json()))
    assert (tmp_path / "report.md").read_text().startswith("# Retrieval\n")


def test_an_interrupted_run_goes_on_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluated(tmp_path / "whole")
    real, calls = evaluation.search, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(evaluation, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path / "run")
    with (tmp_path / "run" / "found.jsonl").open("ab") as stream:
        stream.write(b'{"model": "toy", "att')  # a line that a kill tore off
    assert len(read_records(tmp_path / "run" / "records.jsonl")) == 12  # the clean ones
    assert evaluated(tmp_path / "run") == whole
    assert len(calls) == 4  # the first four images were not attacked again: 1, the stopped one, and 2 more
    for name in ("found.jsonl", "records.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    encoder = Toy()
    assert evaluated(tmp_path / "run", [encoder]) == whole
    assert (len(calls), encoder.text_calls) == (4, 0)  # nothing is computed a second time


def test_a_random_model_gives_the_same_numbers_again_and_after_a_kill(tmp_path: Path) -> None:
    models: Any = [wrapped(Toy(), "resizing:noise=60/255:samples=2")]

    def written(run: str) -> list[bytes]:
        return [(tmp_path / run / name).read_bytes() for name in ("found.jsonl", "records.jsonl")]

    before = torch.get_rng_state()
    whole = evaluated(tmp_path / "whole", models)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert evaluated(tmp_path / "again", models) == whole
    evaluated(tmp_path / "other", models, seed=1)
    assert written("again") == written("whole") != written("other")
    for left in (6, 18):  # a kill in the middle of a block of four, of the clean images and of the attacked ones
        for path in (tmp_path / "again" / name for name in ("found.jsonl", "records.jsonl")):
            lines = path.read_bytes().splitlines(keepends=True)
            kept = left if path.stem == "found" else left // 12 * 12  # records are written when all images are there
            path.write_bytes(b"".join(lines[:kept]))
        assert evaluated(tmp_path / "again", models) == whole
        assert written("again") == written("whole")


def test_a_run_grows_by_models_and_attacks_and_nothing_else(tmp_path: Path) -> None:
    first = evaluated(tmp_path)
    more = evaluated(tmp_path, [Toy(), Toy(name="other", seed=1)], attacks=["pgd:2", "cw:2"])
    assert set(first.recalls) <= set(more.recalls)
    assert evaluated(tmp_path) == first
    with pytest.raises(RunError, match='threat was "linf:16/255:native", now "linf:1/255:native"'):
        evaluated(tmp_path, threat="linf:1/255")
    with pytest.raises(RunError, match="images of captions was 12, now 5"):
        evaluated(tmp_path, captions=captioned(MANY).take(5))
    with pytest.raises(RunError, match="fingerprint of model 'toy' was"):
        evaluated(tmp_path, [Toy(seed=9)])
    (tmp_path / "run.json").write_text('{"format": "zsrobust.run/1"}')
    with pytest.raises(RunError, match="holds another kind of run"):
        evaluated(tmp_path)


class NoTexts:
    name = "pictures-only"
    encode_texts = None


class Broken(Toy):
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return super().encode_pixels(pixels) * torch.nan


@pytest.mark.parametrize(
    ("models", "options", "kind", "line"),
    [
        ([], {}, ConfigError, "no model to evaluate"),
        ([Toy(), Toy()], {}, ConfigError, "model 'toy' is given more than once"),
        ([Toy()], {"attacks": ["pgd:2", "pgd:2"]}, ConfigError, "attack 'pgd:2' is given more than once"),
        ([Toy()], {"seed": -1}, ConfigError, "seed must be at least 0, not -1"),
        ([Toy()], {"attacks": ["square"]}, ConfigError, "attack 'square' cannot be aimed at retrieval"),
        ([NoTexts()], {}, ModelError, "model 'pictures-only' has no text tower"),
        ([Broken(name="nan")], {}, ModelError, "model 'nan': 4 images have features that are NaN or infinite"),
    ],
)
def test_it_refuses(tmp_path: Path, models: list[Any], options: dict[str, Any], kind: type, line: str) -> None:
    with pytest.raises(kind, match=line):
        evaluate_retrieval(models, captioned(MANY), run=tmp_path, rows=4, **options)
    assert not (tmp_path / "found.jsonl").exists()


def test_what_is_no_retrieval_run_gets_no_file(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": "zsrobust.run/1", "kind": "evaluate"}')
    with pytest.raises(RunError, match="holds another kind of run"):
        evaluated(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_only_clean(tmp_path: Path) -> None:
    summary = evaluated(tmp_path, attacks=[])
    assert {r.attack for r in summary.recalls} == {"clean"}


def test_in_model_space_the_models_own_geometry_is_attacked(tmp_path: Path) -> None:
    captions = captioned(MANY, size=9)
    clean = {}
    for space in ("native", "model"):
        evaluated(tmp_path / space, attacks=["pgd:1"], captions=captions, threat=f"linf:16/255:{space}")
        found = [Found(**json.loads(line)) for line in (tmp_path / space / "found.jsonl").read_text().splitlines()]
        clean[space] = np.stack([line.vector for line in found if line.attack == "clean"])
    assert np.abs(clean["native"] - clean["model"]).max() > 1e-3  # resized by torch and by PIL
