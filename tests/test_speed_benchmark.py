"""The speed benchmark: what it compares computes the same, what it counts is counted right, and what it writes."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.speed import adapt, attack, bookkeeping
from benchmarks.speed.__main__ import main
from benchmarks.speed.clock import Times, in_turns
from benchmarks.speed.figure import Figure, curve, exponent
from benchmarks.speed.models import MINIATURE, classifier, images, prompts, random_encoder
from benchmarks.speed.operations import Floor, Pass, operations, reference_products, step_products
from benchmarks.speed.reference import BareTraining, perturbed
from benchmarks.speed.table import markdown
from benchmarks.speed.workload import QUICK
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import zsrobust as zr
from zsrobust.attacks.ascent import gradient_of
from zsrobust.attacks.pgd import PGD
from zsrobust.losses import cross_entropy
from zsrobust.passes import frozen

CLASSES, BATCH = 5, 4
SMALL = replace(
    QUICK, shape="miniature", adapt_model="miniature", batch=BATCH, classes=(CLASSES, 8), reference_classes=CLASSES,
    repeats=2, slow_repeats=2, adapt_batch=4, adapt_steps=4, photographs=16, photograph=(48, 40),
)  # fmt: skip


@pytest.fixture
def encoder() -> Any:
    return random_encoder(MINIATURE, attention="eager").requires_grad_(True)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return images(BATCH, MINIATURE.size, CLASSES)


def test_reference_and_ours_walk_the_same_way(encoder: Any, batch: tuple[Tensor, Tensor]) -> None:
    pixels, labels = batch
    tokens = prompts(encoder, CLASSES)
    model, eps = classifier(encoder, tokens), attack.THREAT.eps
    start = PGD(attack.THREAT, 1).start(pixels, attack.keys(BATCH))
    theirs = perturbed(encoder, tokens, pixels, labels, start=start, eps=eps, step_size=eps, steps=3)
    assert all(weight.grad is not None for name, weight in encoder.named_parameters() if "logit" not in name)
    encoder.zero_grad()
    mine = attack.ours(model, pixels, labels, steps=3, way="float32", device="cpu")
    assert all(weight.grad is None for weight in encoder.parameters())
    assert (mine - start).abs().max() > eps / 2
    # The sign of a gradient that is zero up to rounding may differ, and one pixel then moves the next step's gradient.
    assert (mine - theirs).abs().lt(1e-6).float().mean() > 0.999


def test_reference_and_ours_have_the_same_gradient_signs(encoder: Any, batch: tuple[Tensor, Tensor]) -> None:
    pixels, labels = batch
    tokens = prompts(encoder, CLASSES)
    model, size = classifier(encoder, tokens), 1e-4
    inner = 0.1 + 0.8 * pixels  # away from the box, a step shows the sign of the gradient
    moved = perturbed(encoder, tokens, inner, labels, start=inner, eps=1.0, step_size=size, steps=1) - inner
    with frozen(model):
        slope = gradient_of(lambda points: cross_entropy(model(points), labels), inner)
    assert (moved / size).round().eq(slope.sign()).float().mean() > 0.999


@pytest.mark.parametrize("kind", ["forward", "attack", "training", "reference"])
def test_operations_are_those_that_torch_counts(encoder: Any, batch: tuple[Tensor, Tensor], kind: Pass) -> None:
    pixels, labels = batch
    tokens, config = prompts(encoder, CLASSES), encoder.model.config
    texts = torch.nn.functional.normalize(torch.randn(CLASSES, config.projection_dim), dim=-1)

    def features(points: Tensor) -> Tensor:
        return encoder.model.get_image_features(pixel_values=points).pooler_output  # type: ignore[no-any-return]

    products = step_products(config, BATCH, CLASSES)
    with FlopCounterMode(display=False) as counter:
        if kind == "reference":
            products = reference_products(config, BATCH, CLASSES)
            perturbed(encoder, tokens, pixels, labels, start=pixels, eps=0.1, step_size=0.1, steps=1)
        elif kind == "attack":
            encoder.requires_grad_(False)
            gradient_of(lambda points: cross_entropy(features(1.0 * points) @ texts.T, labels), pixels)
        elif kind == "training":
            cross_entropy(features(pixels) @ texts.T, labels).mean().backward()
        else:
            with torch.no_grad():
                features(pixels) @ texts.T
    assert operations(products, kind) == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        floor = Floor(products, kind, torch.float32, "cpu")
        floor()
    assert floor.operations == operations(products, kind)


def test_bare_passes_train_as_the_loop_does(encoder: Any, tmp_path: Path) -> None:
    """From the image itself the points are the same, so the weights after a step are."""
    task = zr.task(str(adapt.photographs(tmp_path, 4, (40, 40))), split="train")
    threat = zr.Threat("linf", "4/255")
    attacker = PGD(threat, 2, step_size=threat.eps, random_start=False)
    adapted: Any = zr.adapt(
        encoder, task=task, attack=attacker, epochs=1, batch_size=4, lr=1e-3, warmup=0, progress=False
    )
    model = encoder.copy()
    head = zr.TextHead.build(encoder, task.class_names, task.templates)
    weights = [weight for _, weight in model.visual_parameters()]
    bare = BareTraining(
        model.encode_pixels, weights, head.embeddings, model.logit_scale, eps=threat.eps, steps=2,
        training=nullcontext, attack=nullcontext,
    )  # fmt: skip
    bare.optimizer.param_groups[0]["lr"] = 1e-3
    pixels = torch.from_numpy(task.images(range(4))).permute(0, 3, 1, 2) / 255
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand_like", lambda tensor: torch.full_like(tensor, 0.5))
        bare.step(pixels, torch.tensor(task.labels.tolist()))
    moved = [
        (a - b).norm() for (_, a), (_, b) in zip(adapted.visual_parameters(), encoder.visual_parameters(), strict=True)
    ]
    apart = [(a - b).norm() for (_, a), b in zip(adapted.visual_parameters(), weights, strict=True)]
    assert sum(apart) < 0.01 * sum(moved)


def test_attack_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.speed.memory.measured", lambda *_, classes=10, **__: classes * 2**20)
    rows = {figure.name: figure.to_json() for figure in attack.part(SMALL)}
    for way in ("", "_float32", "_autocast", "_lowered"):
        row = rows[f"attack_step_{CLASSES}_classes{way}"]
        assert row["unit"] == "images/s"
        assert row["value"] > 0
        assert row["n"] == 2
        assert row["ratio_to_floor"] > 0
        assert row["ratio_to_reference"] > 0
    assert rows[f"attack_step_{CLASSES}_classes"]["value"] == max(
        rows[f"attack_step_{CLASSES}_classes_{way}"]["value"] for way in attack.PRECISIONS
    )
    assert rows["attack_step_8_classes_reference"]["value"] is None
    assert "ratio_to_reference" not in rows["attack_step_8_classes"]
    assert rows["attack_step_8_classes_memory"]["unit"] == "GiB above the weights"


def test_adapt_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.speed.memory.measured", lambda *_, **__: 2**20)
    asked = replace(SMALL, adapt_options=({"precision": "bf16"}, {"no_such_option": 1}))
    rows = {figure.name: figure.to_json() for figure in adapt.part(asked, tmp_path)}
    assert set(rows) == {f"adapt_tecoa_pgd2{end}" for end in ("", "_memory", "_bf16", "_bf16_memory")}
    row = rows["adapt_tecoa_pgd2"]
    assert row["unit"] == "images/s"
    assert row["value"] > 0
    assert row["ratio_to_passes"] > 0
    assert row["settings"]["counted"] == "metrics every 10 steps, a checkpoint every 500"


def test_what_a_step_is_made_of() -> None:
    """Steps 0 … 7 of one second; metrics at step number 4 take 3 more, the checkpoint at number 5 takes 10 more."""
    measured = adapt._taken_apart([2.0, 1.0, 1.0, 4.0, 11.0, 1.0, 1.0], 4, None)
    assert (measured.metrics, measured.checkpoint) == (3.0, 10.0)
    assert measured.step == pytest.approx(1 + 3 / 10 + 10 / 500)


def test_speeds_are_compared_turn_by_turn() -> None:
    called: list[str] = []
    times = in_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, repeats=2, cold=["b"])
    assert called == ["a", "a", "b", "a", "b"]
    assert times["a"].n == 2
    assert Times([1.0, 2.0, 1.0]).faster_than(Times([2.0, 8.0, 2.0])) == 2.0
    assert Times([1.0, 2.0, 1.0]).spread == 1.0


def test_a_curve_that_grows_faster_than_its_work() -> None:
    assert exponent([(x, 3 * x**2) for x in (1, 4, 9)]) == pytest.approx(2)
    square = curve("square", [(x, x**2, x) for x in (1.0, 2.0, 4.0)], x="cells", y="seconds", work="cells")
    fair = curve("fair", [(x, 1 + x, x) for x in (1.0, 2.0, 4.0)], x="cells", y="seconds", work="cells")
    assert square.settings["faster_than_its_work"]
    assert not fair.settings["faster_than_its_work"]
    with pytest.raises(ValueError, match="no measurement"):
        Figure("broken", math.nan, "s")
    with pytest.raises(ValueError, match="ratio_to_luck"):
        Figure("lucky", 1.0, "s", {"ratio_to_luck": 2.0})


def test_made_up_run_reports_and_resumes(tmp_path: Path) -> None:
    figures = bookkeeping._records([400, 800], tmp_path)
    assert [figure.name for figure in figures] == ["growth_report_in_records", "growth_resume_in_records"]
    assert all(len(figure.points) == 2 and min(figure.points[0]) > 0 for figure in figures)
    assert (tmp_path / "records" / "report.html").exists()


def test_file_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command writes, and that the table's numbers are the file's."""
    path = tmp_path / "speed.json"
    figures = {
        "adapt": [Figure("adapt_tecoa_pgd2", 3.25, "images/s", {"ratio_to_passes": 0.912}, 0.125, 2, {})],
        "growth": [curve("growth", [(10, 2.5, 10), (20, 7.5, 20)], x="cells", y="seconds", work="cells")],
        "start": [Figure("start_help", 0.0519, "s", settings={"command": "zsrobust --help"})],
    }
    monkeypatch.setattr("benchmarks.speed.__main__.measure", lambda part, *_: figures[part])
    main(["--part", "start", "adapt", "--quick", "--out", str(path)])
    main(["--part", "growth", "--quick", "--out", str(path)])  # the parts measured before stay
    result = json.loads(path.read_text())
    assert {"machine", "versions", "command", "figures", "seconds", "workload"} <= set(result)
    assert {"processor", "cores", "threads", "memory_gib", "device", "load_before"} <= set(result["machine"])
    assert [row["name"] for row in result["figures"]] == ["adapt_tecoa_pgd2", "growth", "start_help"]
    assert all(row.keys() >= {"name", "value", "unit", "spread", "n", "settings", "part"} for row in result["figures"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["--quick"])
    assert "--quick has no figure to quote, so it does not write speed.json" in capsys.readouterr().err
    main(["--table", "--out", str(path)])
    table = capsys.readouterr().out
    assert table == markdown(result) + "\n"
    assert "| `adapt_tecoa_pgd2` | 3.25 | images/s | 0.912 | 12% | 2 |" in table
    assert "| `growth` | cells; seconds | 10 → 2.5, 20 → 7.5 | 1.58 | 1 | **yes** |" in table
    assert "| `start_help` | 0.0519 | s | zsrobust --help |" in table
    main(["--part", "start", "--out", str(path)])  # another workload: nothing of the quick one is kept
    assert [row["name"] for row in json.loads(path.read_text())["figures"]] == ["start_help"]
