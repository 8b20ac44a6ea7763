"""``summary.json`` is what docs/results-format.md says."""

from __future__ import annotations

import json

import pytest
from fake_run import MODELS, TASKS, make_run

from zsrobust.report import load_run, summarise

# The description of docs/results-format.md, as types: a union is a tuple of types.
SHARE, INTERVAL, STRINGS = "share", "interval", "strings"
ROW = {
    "model": str,
    "task": str,
    "adapted_on": bool,
    "tier": {"adapted", "related", "unrelated"},
    "n": int,
    "clean": SHARE,
    "clean_interval": INTERVAL,
    "robust": SHARE,
    "robust_interval": INTERVAL,
    "attack": str,
    "threat": str,
    "norm": {"linf", "l2"},
    "eps": float,
    "space": {"native", "model"},
    "seed": int,
    "precision": str,
    "steps": (int, type(None)),
    "split": str,
    "flags": list,
    "classes": int,
    "clean_balanced_accuracy": (float, type(None)),
    "robust_balanced_accuracy": (float, type(None)),
    "clean_auroc": (float, type(None)),
    "robust_auroc": (float, type(None)),
    "forwards": float,
    "backwards": float,
    "by_attack": list,
    "defended": type(None),
}
MEAN = {
    "model": str,
    "tier": {"adapted", "related", "unrelated", "not adapted"},
    "threat": str,
    "seed": int,
    "tasks": STRINGS,
    "clean": SHARE,
    "clean_interval": INTERVAL,
    "robust": SHARE,
    "robust_interval": INTERVAL,
    "which": {"all", "without binary"},
}


def check(value, kind):
    if kind == SHARE:
        assert type(value) is float
        assert 0 <= value <= 1
    elif kind == INTERVAL:
        assert len(value) == 2
        assert 0 <= value[0] <= value[1] <= 1
    elif kind == STRINGS:
        assert type(value) is list
        assert all(type(v) is str for v in value)
    elif isinstance(kind, set):
        assert value in kind
    else:
        assert type(value) in (kind if isinstance(kind, tuple) else (kind,))


@pytest.mark.parametrize("eps", [("0", "1/255"), ("4/255",)])
def test_summary_json_is_what_the_documentation_says(tmp_path, eps):
    run = make_run(tmp_path / "run", tasks=tuple(TASKS)[:5], n=30, eps=eps)
    summary = json.loads(json.dumps(summarise([load_run(run)]).to_json(), allow_nan=False))
    assert list(summary) == ["format", "rows", "means", "comparisons", "across_seeds"]
    assert summary["format"] == "zsrobust.summary/1"
    for name, schema in (("rows", ROW), ("means", MEAN)):
        assert summary[name]
        for entry in summary[name]:
            assert list(entry) == list(schema)
            for key, kind in schema.items():
                check(entry[key], kind)
            for what in ("clean", "robust"):
                assert entry[f"{what}_interval"][0] <= entry[what] <= entry[f"{what}_interval"][1]
            assert entry["robust"] <= entry["clean"]
    assert [row["model"] for row in summary["rows"]] == [m for m in MODELS for _ in range(5 * len(eps))]
    assert len(summary["means"]) == 2 * 4 * len(eps)
