"""What a learner can be trained against: nothing of an attack that would have no effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.toy_runs import THREAT, run

from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.pgd import PGD, fgsm
from zsrobust.errors import ConfigError
from zsrobust.losses import margin_loss


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (PGD(THREAT, 2, restarts=5), r"one run of the attack, not PGD\(restarts=5\)"),
        (PGD(THREAT, 2, loss=margin_loss), r"choose method=, not PGD\(loss=margin_loss\)"),
        (PGD(THREAT, 2, precision="bfloat16"), "says attack_precision=, not"),
        (APGD(THREAT, 2), "attack must be a PGD, such as .*, not APGD"),
        ("pgd:2", "attack must be a PGD, such as .*, not 'pgd:2'"),
    ],
)
def test_what_training_would_ignore_of_an_attack_is_refused(attack: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        run(attack=attack, run=tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_what_is_in_force_is_allowed() -> None:
    for attack in (fgsm(THREAT), PGD(THREAT, 1, step_size=0.01, random_start=False)):
        run(attack=attack, epochs=1)
