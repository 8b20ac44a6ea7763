"""``zsrobust export``: what it writes, what it says, and what it refuses before any work."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from huggingface_hub import ModelCard, constants
from tests.cli.conftest import Refused, Zsrobust

from zsrobust.cli import export
from zsrobust.cli.command import options_of
from zsrobust.encoders.huggingface import from_folder
from zsrobust.export import FORMATS


def test_every_format_is_an_option() -> None:
    kind = options_of(export.ExportOptions)["format"].hint
    assert sorted(get_args(get_args(kind)[0])) == list(FORMATS)


def test_an_evaluated_model_goes_out_with_its_numbers(
    zsrobust: Zsrobust, refused: Refused, random_clip_folder: Path, evaluate_command: list[object]
) -> None:
    assert zsrobust(*evaluate_command, "--run", "e").status == 0
    out = zsrobust("export", random_clip_folder, "--format", "open_clip", "--out", "out", "--results", "e")
    assert (out.status, out.error) == (0, "")
    lines = out.out.splitlines()
    assert lines[0] == "Model      random-clip"
    assert "Card       README.md, with 1 row of evaluation results" in lines
    assert lines[-1].startswith("Wrote      out: README.md, export.json, open_clip_config.json, ")
    results = ModelCard.load("out/README.md").data.eval_results
    assert [entry.dataset_name for entry in results] == ["pets", "pets"]
    other = from_folder(random_clip_folder)
    other.model.logit_scale.add_(1)
    other.save_pretrained("other")
    line = refused("export", "other", "--format", "hf", "--out", "o", "--results", "e")
    assert line.startswith("e has no results of this model: its weights are ")
    assert not Path("o").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--format", "hf"], "a model, --format and --out are needed: zsrobust export MODEL --format=FORMAT"),
        (["--format", "onyx", "--out", "o"], "option --format must be one of hf, open_clip, visual, onnx"),
        (["--format", "hf", "--out", "o", "--classes", "a,b"], "--classes, --template and --tasks are for --format o"),
        (["--format", "hf", "--out", "o", "--data", "d"], "--data is for --tasks, which was not given"),
        (["--format", "hf", "--out", "o", "--revision", "v"], "--revision v is for --push-to-hub OWNER/NAME"),
        (["--format", "hf", "--out", "o", "--push-to-hub", "mine"], "'mine' is not the name of a repository"),
        (["--format", "hf", "--out", "o", "--push-to-hub", "me/mine"], "'me/mine' cannot be pushed: no token"),
    ],
)
def test_it_refuses(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], line: str
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert refused("export", "tiny", *words).startswith(line)
    assert not Path("o").exists()
