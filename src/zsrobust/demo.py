"""The main job end to end: evaluate a model, adapt it, evaluate it again, and report both in one run folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsrobust.api import Evaluation
from zsrobust.encoders import switches
from zsrobust.errors import RunError
from zsrobust.jobs import adapt_job, evaluate_job
from zsrobust.models import load_model
from zsrobust.report import terminal
from zsrobust.run_folder import FORMAT

ADAPTED = "adapted"
"""Where in the demo's run folder the adaptation is."""


def demo(*, run: Path, adapt: Mapping[str, Any], evaluate: Mapping[str, Any], fresh: bool = False) -> Evaluation:
    """Before, adaptation, after. Whatever was finished by an earlier call is not computed again.

    Args:
        run: Run folder.
        adapt: Arguments of :func:`zsrobust.jobs.adapt_job`.
        evaluate: Arguments of :func:`zsrobust.jobs.evaluate_job`.
        fresh: Remove what is in the run folder first.

    Raises:
        ZSRobustError: one line that says what is wrong; what was computed is kept.
    """
    if fresh:
        _clear(run)
    start = time.monotonic()
    attention = str(evaluate["attention"])
    base = load_model(str(adapt["model"]), device=str(adapt["device"]), attention=attention)
    threat, attacks = ", ".join(evaluate["threat"]), ", ".join(evaluate["attacks"])
    print(f"1/3  Evaluate {base.name}: {len(evaluate['tasks'])} tasks, clean and under {attacks} within {threat}")
    evaluate_job(models=[base], run=run, kind="demo", **evaluate)
    print(f"2/3  Adapt it: {adapt['method']} on {adapt['task']} against PGD-{adapt['steps']} within {adapt['threat']}")
    adapted: Any = adapt_job(run=run / ADAPTED, **adapt)
    adapted.name = f"{base.name}+{adapt['method']}"
    # Kernels for training in bf16 and for a verdict in float32 are chosen apart; both models are judged by the same.
    if (model := switches.inside(adapted)) is not None:
        model.set_attention("sdpa" if attention == "auto" else attention)  # the evaluation finds what auto is
    print(f"3/3  Evaluate {adapted.name}")
    evaluation = evaluate_job(models=[base, adapted], run=run, kind="demo", pictures=True, **evaluate)
    terminal(evaluation.summary)
    print(f"\nModel    {run / ADAPTED / 'model'}")
    print(f"Summary  {run / 'summary.json'}")
    print(f"Report   {run / 'report.html'}")
    print(f"Time     {time.monotonic() - start:.0f} s")
    return evaluation


def _clear(run: Path) -> None:
    """Removes a run folder, and nothing that is not one."""
    if not run.exists():
        return
    try:
        header = json.loads((run / "run.json").read_text())
    except (OSError, ValueError):
        header = {}
    if header.get("format") != FORMAT:
        raise RunError(f"{run} is not a run folder of this program: it is not removed; name another with --run")
    shutil.rmtree(run)
