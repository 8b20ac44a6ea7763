"""The main job end to end: evaluate a model, adapt it, evaluate it again, and report both in one run folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from zsrobust.api import Evaluation, resolve_attacks, resolve_tasks
from zsrobust.attacks.binding import carry
from zsrobust.encoders import switches
from zsrobust.encoders.base import Encoder
from zsrobust.errors import ConfigError, RunError
from zsrobust.jobs import adapt_job, evaluate_job, expand_threats, make_method, make_tuning, training_attack
from zsrobust.methods.targets import check
from zsrobust.models import load_model
from zsrobust.recipe import Recipe
from zsrobust.refusals import check_runnable
from zsrobust.report import terminal
from zsrobust.run_folder import FORMAT
from zsrobust.tasks import task
from zsrobust.threat import Threat, parse_eps

ADAPTED = "adapted"
"""Where in the demo's run folder the adaptation is."""
_KIND = "demo"


def demo(*, run: Path, adapt: Mapping[str, Any], evaluate: Mapping[str, Any], fresh: bool = False) -> Evaluation:
    """Before, adaptation, after. Whatever was finished by an earlier call is not computed again.

    Args:
        run: Run folder.
        adapt: Arguments of :func:`zsrobust.jobs.adapt_job`.
        evaluate: Arguments of :func:`zsrobust.jobs.evaluate_job`.
        fresh: Remove what an earlier demo left in the run folder, once the arguments are known to be right.

    Raises:
        ZSRobustError: one line that says what is wrong; what was computed is kept.
    """
    earlier = fresh and run.exists()
    if earlier:
        _check_own(run)
    start = time.monotonic()
    attention = str(evaluate["attention"])
    base = load_model(str(adapt["model"]), device=str(adapt["device"]), attention=attention)
    if earlier:
        _check_arguments(base, adapt, evaluate)
        shutil.rmtree(run)
    threat, attacks = ", ".join(evaluate["threat"]), ", ".join(evaluate["attacks"])
    print(f"1/3  Evaluate {base.name}: {len(evaluate['tasks'])} tasks, clean and under {attacks} within {threat}")
    evaluate_job(models=[base], run=run, kind=_KIND, **evaluate)
    print(f"2/3  Adapt it: {adapt['method']} on {adapt['task']} against PGD-{adapt['steps']} within {adapt['threat']}")
    adapted: Any = adapt_job(run=run / ADAPTED, **adapt)
    adapted.name = f"{base.name}+{adapt['method']}"
    # Kernels for training in bf16 and for a verdict in float32 are chosen apart; both models are judged by the same.
    if (model := switches.inside(adapted)) is not None:
        model.set_attention("sdpa" if attention == "auto" else attention)  # the evaluation finds what auto is
    print(f"3/3  Evaluate {adapted.name}")
    evaluation = evaluate_job(models=[base, adapted], run=run, kind=_KIND, pictures=True, **evaluate)
    terminal(evaluation.summary)
    print(f"\nModel    {run / ADAPTED / 'model'}")
    print(f"Summary  {run / 'summary.json'}")
    print(f"Report   {run / 'report.html'}")
    print(f"Time     {time.monotonic() - start:.0f} s")
    return evaluation


def _check_own(run: Path) -> None:
    """Whether a folder is an earlier demo's, which may be removed.

    Raises:
        RunError: it is something else.
    """
    try:
        header = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise RunError(f"{run} is not a run folder of this program: it is not removed; name another with --run")
    if header.get("kind") != _KIND:
        raise RunError(
            f"{run} holds a run of '{header.get('kind')}', not a demo: it is not removed; name another with --run"
        )


def _check_arguments(base: Encoder, adapt: Mapping[str, Any], evaluate: Mapping[str, Any]) -> None:
    """Whether there is what the arguments name and it can run: a mistake in them must not cost the run that is there.

    Raises:
        ZSRobustError: there is not.
    """
    recipe = Recipe.of({name: value for name, value in adapt.items() if name in Recipe.__dataclass_fields__})
    training_attack(Threat.parse(adapt["threat"]), adapt["steps"], adapt["step_size"])
    check(make_method(adapt["method"], adapt["method_options"]), recipe.labels)
    make_tuning(adapt["tuning"], adapt["tuning_options"])
    task(
        adapt["task"], split=adapt["split"], limit=adapt["limit"], data=adapt["data"],
        classes=adapt["classes"] or None, templates=adapt["template"] or None, select=adapt["select"] or None,
    )  # fmt: skip
    threats = expand_threats(evaluate["threat"], evaluate["eps"], evaluate["space"])
    options = {name: evaluate[name] for name in ("mode", "steps", "restarts", "targets", "queries")}
    step_size = None if evaluate["step_size"] is None else parse_eps(evaluate["step_size"], "step_size")
    asked = resolve_attacks(evaluate["attacks"], threats, step_size=step_size, **options)
    seed, rows = min(evaluate["seed"], default=-1), 1 if evaluate["rows"] == "auto" else evaluate["rows"]
    for name, value, least in (("seed", seed, 0), ("batch_size", evaluate["batch_size"], 1), ("rows", rows, 1)):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, not {value}")
    tasks = resolve_tasks(
        evaluate["tasks"], split=evaluate["split"], limit=evaluate["limit"], seed=seed,
        data=evaluate["data"], classes=evaluate["classes"], templates=evaluate["template"],
        select=evaluate["select"], on_bad_image=evaluate["on_bad_image"],
    )  # fmt: skip
    check_runnable([base], tasks, carry(asked, partial(load_model, device=str(adapt["device"]))))
