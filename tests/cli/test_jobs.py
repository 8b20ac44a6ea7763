"""adapt, evaluate, report and attack on a random CLIP: what a person sees, and which options are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from tests.cli.conftest import Command, Refused, Zsrobust

from zsrobust import divergence


def test_adapt(zsrobust: Zsrobust, adapt_command: Command) -> None:
    result = zsrobust(*adapt_command)
    assert (result.status, result.error) == (0, "")
    assert "6 steps of 4 images" in result.out
    assert "Model  adapted/model\n" in result.out
    assert "Next   zsrobust evaluate " in result.out
    assert yaml.safe_load(Path("adapted/config.yaml").read_text())["lr"] == 1e-3
    assert len(Path("adapted/metrics.jsonl").read_text().splitlines()) == 6
    provenance = json.loads(Path("adapted/model/zsrobust.json").read_text())
    assert provenance["adapted_on"] == ["pets"]


def test_what_to_do_next_asks_with_the_same_prompts(zsrobust: Zsrobust, adapt_command: Command) -> None:
    line = zsrobust(*adapt_command, "--template", "{}, yes", "--template", "a {}").out.splitlines()[-1]
    assert line.endswith(" --template '{}, yes' --template 'a {}'")


def test_adapt_again_does_nothing(zsrobust: Zsrobust, adapt_command: Command) -> None:
    zsrobust(*adapt_command)
    weights = Path("adapted/model/model.safetensors")
    before = weights.stat().st_mtime_ns
    again = zsrobust(*adapt_command)
    assert again.status == 0
    assert "Finished before, nothing to do: adapted/model" in again.out
    assert weights.stat().st_mtime_ns == before


def test_adapt_from_its_own_configuration(zsrobust: Zsrobust, adapt_command: Command) -> None:
    zsrobust(*adapt_command)
    shutil.copy("adapted/config.yaml", "mine.yaml")
    assert "Finished before" in zsrobust("adapt", "mine.yaml").out
    assert zsrobust("adapt", "mine.yaml", "--run", "other").status == 0
    one, other = (Path(run, "model/model.safetensors").read_bytes() for run in ("adapted", "other"))
    assert one == other


def test_interrupted_adaptation_goes_on(
    zsrobust: Zsrobust, adapt_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    zsrobust(*adapt_command[:-1], "whole")
    with monkeypatch.context() as patch:
        check = divergence.DivergenceGuard.check

        def interrupted(self: divergence.DivergenceGuard, loss: float, step: int) -> None:
            if step == 4:
                raise KeyboardInterrupt
            check(self, loss, step)

        patch.setattr(divergence.DivergenceGuard, "check", interrupted)
        stopped = zsrobust(*adapt_command)
    assert stopped.status == 130
    assert stopped.error == "\nzsrobust: interrupted; the same command goes on from step 4\n"
    resumed = zsrobust(*adapt_command)
    assert "Run    adapted, going on from step 4" in resumed.out
    one, other = (Path(run, "model/model.safetensors").read_bytes() for run in ("adapted", "whole"))
    assert one == other


def test_adapt_with_another_configuration(zsrobust: Zsrobust, refused: Refused, adapt_command: Command) -> None:
    zsrobust(*adapt_command)
    config = Path("adapted/config.yaml").read_text()
    line = refused(*adapt_command, "--lr", "1e-2")
    assert line.startswith("adapted was started with another configuration: lr was 0.001, now 0.01")
    assert Path("adapted/config.yaml").read_text() == config


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--method", "teco"], "unknown method 'teco'; did you mean 'tecoa'?"),
        (["--method_options.scal", "3"], "unknown tecoa option 'scal'; did you mean 'scale'?"),
        (["--method_options.scale", "abc"], "tecoa's scale must be above 0, not 'abc'"),
        (["--method_options.scale", "true"], "tecoa's scale must be above 0, not True"),
        (["--labels", "none"], "method 'tecoa' needs labels"),
        (["--held_out", "0"], "held_out must be at least 1, or null, not 0"),
        (["--tuning", "lora", "--tuning_options.targets", "3"], "lora: targets must be some of q, k, v, out"),
        (["--method", "imgcoadv", "--batch_size", "1"], "imgcoadv compares images of a batch: it needs at least 2"),
        (
            ["--tuning", "pixel-token-prompt", "--tuning_options.token.count", "0"],
            "the count of token prompts must be a whole number of at least 1, not 0",
        ),
        (["--model", "tiy"], "unknown model 'tiy'; did you mean 'tiny'?"),
        (["--task", "dgits"], "unknown task 'dgits'; did you mean 'digits'?"),
        (["--task", "./pets/none"], "no such file or folder: ./pets/none"),
        (["--threat", "linf:4"], "ε = 4 is ambiguous: did you mean 4/255?"),
        (["--step_size", "4"], "step_size = 4 is ambiguous: did you mean 4/255?"),
        (["--epochs", "0"], "epochs must be at least 1, not 0"),
        (["--seed", "-1"], "seed must be at least 0, not -1"),
        (["--steps", "0"], "PGD needs at least 1 step, not 0"),
        (["--select", "cow"], "unknown class of task 'pets' 'cow'"),
        (["--device", "warp"], "device 'warp' cannot be used here"),
    ],
)
def test_adapt_refuses(refused: Refused, adapt_command: Command, options: list[str], line: str) -> None:
    assert refused(*adapt_command, *options).startswith(line)
    assert not Path("adapted").exists()


def test_evaluate(zsrobust: Zsrobust, evaluate_command: Command) -> None:
    result = zsrobust(*evaluate_command, "--run", "e")
    assert (result.status, result.error) == (0, "")
    assert "pets" in result.out
    assert result.out.endswith("Summary  e/summary.json\nReport   e/report.html\n")
    assert {path.name for path in Path("e").iterdir()} == {
        ".evaluate.lock", "config.yaml", "records.jsonl", "report.html", "report.md", "run.json", "summary.json",
    }  # fmt: skip
    row = json.loads(Path("e/summary.json").read_text())["rows"][0]
    assert (row["task"], row["n"], row["threat"]) == ("pets", 12, "linf:4/255:native")


def test_evaluate_without_a_run_finds_its_folder_again(zsrobust: Zsrobust, evaluate_command: Command) -> None:
    zsrobust(*evaluate_command)
    (run,) = Path("runs").iterdir()
    records = (run / "records.jsonl").read_bytes()
    assert f"Going on with {run}" in zsrobust(*evaluate_command).out
    assert (run / "records.jsonl").read_bytes() == records
    zsrobust(*evaluate_command, "--limit", "6")
    assert len(list(Path("runs").iterdir())) == 2


def test_before_and_after_in_one_run(zsrobust: Zsrobust, adapt_command: Command, evaluate_command: Command) -> None:
    zsrobust(*adapt_command)
    # The adapted model is named first on purpose: the unadapted one must come first in the table.
    result = zsrobust("evaluate", "adapted", *evaluate_command[1:], "--run", "e")
    assert result.out.startswith("Before   random-clip\nAfter    adapted")
    header = json.loads(Path("e/run.json").read_text())
    assert [model["name"] for model in header["models"]] == ["random-clip", "adapted"]
    assert [model["adapted_on"] for model in header["models"]] == [[], ["pets"]]


def test_curve_and_seeds(zsrobust: Zsrobust, evaluate_command: Command) -> None:
    zsrobust(*evaluate_command, "--eps", "0,1/255,4/255", "--seeds", "0,1", "--run", "e", "--limit", "6")
    rows = json.loads(Path("e/summary.json").read_text())["rows"]
    assert {(row["threat"], row["seed"]) for row in rows} == {
        (f"linf:{eps}:native", seed) for eps in ("0", "1/255", "4/255") for seed in (0, 1)
    }
    assert all(row["robust"] == row["clean"] for row in rows if row["eps"] == 0)


def test_own_folder_with_names_and_template(zsrobust: Zsrobust, photos: Path, random_clip_folder: Path) -> None:
    result = zsrobust(
        "evaluate", random_clip_folder, "--tasks", photos, "--classes", "a cat, a dog, a fox", "--template", "{}, yes",
        "--attacks", "pgd:1", "--save-images", "images", "--pictures", "--run", "e",
    )  # fmt: skip
    assert (result.status, result.error) == (0, "")
    assert f"Images   images ({len(list(Path('images').rglob('*.png')))} of them now)\n" in result.out
    (task,) = json.loads(Path("e/run.json").read_text())["tasks"]
    assert task["class_names"] == ["a cat", "a dog", "a fox"]
    assert task["templates"] == ["{}, yes"]
    assert Path("e/pictures/index.json").exists()
    right = json.loads(Path("e/summary.json").read_text())["rows"][0]["clean"] * task["n"]
    assert len(list(Path("images").rglob("*.png"))) == round(right) > 0


def test_images_of_what_was_attacked_before_are_not_promised(zsrobust: Zsrobust, evaluate_command: Command) -> None:
    zsrobust(*evaluate_command, "--limit", "6", "--run", "e")
    rest = "what the run had before is not attacked again: use another run folder for all images"
    with pytest.warns(UserWarning, match=f"^save_images: no image was written; {rest}$"):
        again = zsrobust(*evaluate_command, "--limit", "6", "--run", "e", "--save-images", "images")
    assert (again.status, "Images " in again.out, Path("images").exists()) == (0, False, False)
    with pytest.warns(UserWarning, match=rf"^save_images: \d images were written; {rest}$"):
        more = zsrobust(*evaluate_command, "--run", "e", "--save-images", "images")
    count = len(list(Path("images").rglob("*.png")))
    assert f"Images   images ({count} of them now)" in more.out


def test_images_into_a_file(refused: Refused, evaluate_command: Command) -> None:
    Path("file").write_text("")
    assert refused(*evaluate_command, "--save_images", "file").startswith("save_images file is a file; name a folder")


def test_evaluate_with_another_configuration(zsrobust: Zsrobust, refused: Refused, evaluate_command: Command) -> None:
    zsrobust(*evaluate_command, "--run", "e")
    assert refused(*evaluate_command, "--run", "e", "--mode", "fast").startswith(
        'e was started with another configuration: precision was "float32", now "bfloat16'
    )
    assert "was started with another configuration" in refused(*evaluate_command, "--run", "e", "--limit", "6")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--attacks", "pdg:2"], "unknown attack 'pdg'; did you mean 'pgd'?"),
        (["--attacks", "pgd:x"], "attack 'pgd:x': what follows the colon is the number of steps"),
        (["--eps", "0,4"], "ε = 4 is ambiguous: did you mean 4/255?"),
        (["--threat", "linf:4"], "ε = 4 is ambiguous: did you mean 4/255?"),
        (["--tasks", "dgits"], "unknown task 'dgits'; did you mean 'digits'?"),
        (["tiy"], "unknown model 'tiy'; did you mean 'tiny'?"),
        (["--limit", "0"], "limit = 0 must be at least 1"),
        (["--rows", "0"], "rows must be at least 1, not 0"),
        (["--seed", "-1"], "seed must be at least 0, not -1"),
        (["--split", "tset"], "unknown split"),
        (["--template", "no braces"], "templates: the template 'no braces' needs exactly one {}"),
        (["--classes", "a,b"], "class names given: 2, but "),
    ],
)
def test_evaluate_refuses(refused: Refused, evaluate_command: Command, options: list[str], line: str) -> None:
    words = [word for word in evaluate_command if options[0] != "tiy" or word != evaluate_command[1]]
    assert refused(*words, *options).startswith(line)


def test_nothing_to_evaluate(refused: Refused) -> None:
    assert refused("evaluate").startswith("no model given: zsrobust evaluate MODEL --tasks A,B")
    assert refused("evaluate", "tiny").startswith("no task given: --tasks A,B")
    assert refused("report").startswith("no run given")
    assert refused("attack").startswith("no image given")


def test_report(zsrobust: Zsrobust, evaluate_command: Command) -> None:
    zsrobust(*evaluate_command, "--run", "e")
    first = {path.name: path.read_bytes() for path in Path("e").iterdir() if path.is_file()}
    Path("e/report.html").unlink()
    result = zsrobust("report", "e")
    assert result.status == 0
    assert Path("e/report.html").exists()
    assert zsrobust("report", "e", "--out", "elsewhere").status == 0
    for name in ("summary.json", "report.md", "report.html"):
        assert Path("elsewhere", name).read_bytes() == Path("e", name).read_bytes() == first.get(name, b"gone"), name


def pixels(file: str | Path) -> NDArray[np.int64]:
    with Image.open(file) as image:
        return np.asarray(image).astype(np.int64)


def test_attack(zsrobust: Zsrobust, random_clip_folder: Path, photos: Path) -> None:
    image = photos / "cat" / "0.png"
    command: Command = ["attack", image, "--labels", "a cat, a dog", "--template", "{}", "--model", random_clip_folder]
    result = zsrobust(*command, "--attack", "pgd:5", "--out", "x.png")
    assert (result.status, result.error) == (0, "")
    assert "(the model's own answer to the unchanged image)" in result.out
    assert "Verdict" in result.out
    assert "saved as an 8-bit file:" in result.out
    change = pixels("x.png") - pixels(image)
    assert change.shape == (16, 16, 3)
    # A sign step goes to the border of the ball nearly everywhere; nothing may lie beyond.
    assert abs(change).max() == 4
    assert (abs(change) == 4).mean() > 0.5
    assert "Wrote    x-perturbation.png (the change, 31 times magnified)\n" in result.out
    shown = pixels("x-perturbation.png") - 127.5
    assert abs(shown - 31 * change).max() <= 16  # half a level of rounding in the image, 31 times magnified


def test_attack_towards_a_target(zsrobust: Zsrobust, random_clip_folder: Path, photos: Path) -> None:
    result = zsrobust(
        "attack", photos / "cat" / "0.png", "--labels", "cat,dog,fox", "--template", "{}",
        "--model", random_clip_folder, "--label", "cat", "--target", "fox", "--threat", "linf:1.0",
    )  # fmt: skip
    assert "Label    'cat' (as given)" in result.out
    assert "towards 'fox'" in result.out
    assert "Verdict  target reached: the model says 'fox'" in result.out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--labels", "a cat"], "an attack needs two or more labels to confuse, not 1"),
        (["--label", "a catt"], "unknown label 'a catt'; did you mean 'a cat'?"),
        (["--label", "a cat", "--target", "a cat"], "the target 'a cat' is the label itself"),
        (["--out", "x.jpg"], "--out x.jpg must end in .png"),
        (["--threat", "linf:4"], "ε = 4 is ambiguous: did you mean 4/255?"),
        (["--out", "file/x.png"], "--out file/x.png cannot be written: "),
        (["--out", "photos/folder.png"], "--out photos/folder.png is a folder; name a file in it"),
        (["--out", "photos/cat/0.png"], "--out photos/cat/0.png would overwrite the image itself (photos/cat/0.png)"),
        (["--out", "link.png"], "--out link.png would overwrite the image itself (link.png)"),
        (["--out", "same.png"], "--out same.png would overwrite the image itself (same-perturbation.png)"),
    ],
)
def test_attack_refuses(
    refused: Refused, random_clip_folder: Path, photos: Path, options: list[str], line: str
) -> None:
    (photos.parent / "file").write_text("")
    (photos / "folder.png").mkdir()
    for name in ("link.png", "same-perturbation.png"):
        (photos.parent / name).symlink_to(photos / "cat" / "0.png")
    before = (photos / "cat" / "0.png").read_bytes()
    words = [photos / "cat" / "0.png", "--labels", "a cat, a dog", "--template", "{}", "--model", random_clip_folder]
    if options[0] == "--labels":
        words[1:3] = []
    assert refused("attack", *words, "--attack", "fgsm", *options).startswith(line)
    assert (photos / "cat" / "0.png").read_bytes() == before


def test_attack_on_what_is_no_image(refused: Refused, random_clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("no")
    line = refused("attack", "x.jpg", "--labels", "a, b", "--model", random_clip_folder)
    assert line.startswith("x.jpg: cannot be read as an image")
