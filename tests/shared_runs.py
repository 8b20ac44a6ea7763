"""Evaluations by several processes, for tests: each process runs ``python -m tests.shared_runs FOLDER WHAT``.

WHAT: ``all`` evaluates into FOLDER/new and goes on with FOLDER/begun; ``killed`` lets process 1 die in the middle of
FOLDER/killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.fakes import Toy, labelled_by, task

from zsrobust import distributed
from zsrobust.api import Evaluation, evaluate
from zsrobust.attacks import lanes, suites
from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.square import Square
from zsrobust.attacks.suites import Member, Suite
from zsrobust.errors import ZSRobustError
from zsrobust.threat import Threat

THREAT = Threat("linf", "4/255")


def short(suite: Suite, classes: int) -> list[Member]:
    """Each member leaves something standing for the next one."""
    return [
        Member(PGD(suite.threat, 1, step_size=suite.threat.eps / 2), suite.name, "weak"),
        Member(APGD(suite.threat, 5), suite.name),
        Member(Square(suite.threat, 20), suite.name),
    ]


def evaluated(run: Path | None, **options: Any) -> Evaluation:
    """Two tasks under a suite and PGD; the suite must be shortened before."""
    encoder = Toy(scale=50.0)
    tasks = [labelled_by(encoder, task(12, name=name, seed=i), wrong=[3, 8]) for i, name in enumerate(("few", "more"))]
    attacks = [Suite("autoattack-few", THREAT), PGD(THREAT, 3)]
    return evaluate(encoder, tasks, attacks=attacks, run=run, rows=4, **options)


def dies(after: int) -> None:
    """This process is killed when it has sent ``after`` parts."""
    from zsrobust.sharing import Exchange

    original, sent = Exchange.send, [0]

    def send(self: Exchange, part: Any) -> None:
        if sent[0] == after:
            os.kill(os.getpid(), signal.SIGKILL)
        sent[0] += 1
        original(self, part)

    Exchange.send = send  # type: ignore[method-assign]


def main(folder: Path, what: str) -> int:
    suites.SUITES = MappingProxyType({**suites.SUITES, "autoattack-few": short})
    lanes.SECONDS = 0.0  # examples are handed out one by one
    distributed.BEAT, distributed.PATIENCE = 0.2, 3.0
    try:
        with distributed.joined() as me:
            if what == "killed":
                if me.rank == 1:
                    dies(after=3)
                evaluated(folder / "killed")
            for name in ("new", "begun") if what == "all" else ():
                found = evaluated(folder / name)
                print(f"process {me.rank}: {len(found.run.records)} records")
    except ZSRobustError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
