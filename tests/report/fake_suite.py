"""A run folder with several attacks, written as an evaluation writes it: block by block, broken images first.

``python tests/report/fake_suite.py FOLDER`` writes one with suites, alarms, two classes and seeds, and reports it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from fake_run import ADAPTED, description

from zsrobust.records import Record, RecordFile

THREAT = "linf:4/255:native"
SUITE = ("apgd:ce", "apgd:t", "fab:t", "square")
Breaks = Callable[[str, str, int, str, int], Collection[str]]
"""(model, task, seed, threat, example) → what makes the model wrong there: names of attacks, or ``clean``."""


def suite(name: str = "autoattack", members: Sequence[str] = SUITE, **more: object) -> list[dict[str, object]]:
    """The ``run.json`` entries of a suite."""
    return [
        {"name": f"{name}/{m}", "suite": name, "steps": 100, "gradient": m != "square", "threat": THREAT} | more
        for m in members
    ]


def lone(name: str = "pgd:100", **more: object) -> dict[str, object]:
    """The ``run.json`` entry of an attack by itself."""
    return {"name": name, "steps": 100, "gradient": True, "threat": THREAT} | more


def make_suite_run(
    folder: Path,
    attacks: Sequence[Mapping[str, object]],
    breaks: Breaks,
    *,
    models: Sequence[str] = ("tiny",),
    tasks: Mapping[str, int] = {"digits": 10},
    n: int = 40,
    block: int = 10,
    seeds: Sequence[int] = (0,),
    threats: Sequence[str] = (THREAT,),
    flags: Sequence[Mapping[str, object]] = (),
) -> Path:
    """Write a run in which each attack breaks the images that ``breaks`` says; ``tasks`` maps to class counts."""
    folder.mkdir(parents=True)
    text = description(models=models, tasks=(), n=n, eps=(), seeds=seeds)
    text |= {"attacks": list(attacks), "threats": list(threats), "flags": list(flags)}
    for name, classes in tasks.items():
        text["tasks"].append(
            {"name": name, "split": "test", "n": n, "class_names": [f"class {c}" for c in range(classes)]}
            | {"follows_from": [], "fingerprint": f"content-of-{name}"}
        )
    (folder / "run.json").write_text(json.dumps(text, indent=1))
    records = [
        record
        for model in models
        for task, classes in tasks.items()
        for seed in seeds
        for start in range(0, n, block)
        for record in block_records(
            model, task, classes, seed, range(start, min(start + block, n)), attacks, threats, breaks
        )
    ]
    with RecordFile(folder / "records.jsonl") as file:
        file.append(records)
    return folder


def block_records(
    model: str,
    task: str,
    classes: int,
    seed: int,
    examples: Sequence[int],
    attacks: Sequence[Mapping[str, object]],
    threats: Sequence[str],
    breaks: Breaks,
) -> list[Record]:
    """The clean records of a block, then each attack's, those it broke first."""

    def record(example: int, attack: str, threat: str, *, right: bool) -> Record:
        label = example % classes
        return Record(
            model=model,
            task=task,
            example=example,
            image=f"{task}:{example}",
            label=label,
            seed=seed,
            attack=attack,
            threat=threat,
            prediction=label if right else (label + 1) % classes,
            correct=right,
            margin=(1 + example / 100) * (1 if right else -1),
            size=0.0,
            forwards=1 if attack == "clean" else 100,
            backwards=0 if attack == "clean" else 50,
        )

    right = {e: "clean" not in breaks(model, task, seed, threats[0], e) for e in examples}
    found = [record(e, "clean", "none", right=right[e]) for e in examples]
    for threat in threats:
        gone: dict[object, set[int]] = {}
        for entry in attacks:
            name = str(entry["name"])
            if entry.get("threat", threat) != threat or task not in entry.get("tasks", [task]):
                continue
            lost = gone.setdefault(entry.get("suite", name), set())
            given = [e for e in examples if right[e] and e not in lost]
            broken = {e for e in given if name in breaks(model, task, seed, threat, e)}
            lost |= broken
            found += [
                record(e, name, threat, right=e not in broken) for e in sorted(given, key=lambda e: e not in broken)
            ]
    return found


def plausible(model: str, task: str, seed: int, threat: str, example: int) -> set[str]:
    """An adapted model that is better, a planted task where Square wins, and some luck of the seed."""
    rng = np.random.default_rng([len(task), ord(task[-1]), example, seed if example % 7 == 0 else 0])
    wrong, hard = rng.random(2)
    eps = float(threat.split(":")[1].split("/")[0])
    if wrong < 0.12:
        return {"clean"}
    if model != "tiny" and task == "world-counting" and hard < 0.5:
        return {"autoattack/square", "autoattack-few/square"}
    if hard < (0.95 if model == "tiny" else 0.25 + 0.05 * eps):
        names = {f"autoattack{f}/{m}" for f in ("", "-few") for m in SUITE[1:]}
        return names | ({"pgd:100", "autoattack/apgd:ce", "autoattack-few/apgd:ce"} if hard > 0.03 else set())
    return set()


if __name__ == "__main__":
    from zsrobust.report import main_report

    tasks = {ADAPTED: 8, "world-counting": 4, "cifar10": 10, "digits": 10, "pcam": 2, "cats-and-dogs": 2}
    threats = ("linf:4/255:native", "linf:8/255:native")
    few = [name for name, classes in tasks.items() if classes < 4]
    many = [name for name, classes in tasks.items() if classes >= 4]
    entries: list[dict[str, object]] = []
    for t in threats:
        entries += [lone(threat=t, step_size=1 / 255), *suite(threat=t, tasks=many)]
        entries += suite("autoattack-few", ("apgd:ce", "fab:t", "square"), threat=t, tasks=few)
    planted = {
        "text": "the forward pass draws random numbers: the same image got 3 different answers in 10 passes",
        "model": "tiny-tecoa",
        "task": "digits",
        "name": "randomised",
        "strength": "proved",
        "evidence": {"answers": 3, "passes": 10, "largest_spread": 0.03125},
    }
    main_report(
        [
            make_suite_run(
                Path(sys.argv[1]),
                entries,
                plausible,
                models=("tiny", "tiny-tecoa"),
                tasks=tasks,
                n=60,
                seeds=(0, 1),
                threats=threats,
                flags=[planted],
            )
        ],
        None,
    )
