from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import pytest

from zsrobust.errors import RunError
from zsrobust.records import Cell, Done, Record, RecordFile, suite_of

CLEAN = Record(
    model="tiny",
    task="shapes",
    example=3,
    image="world:3",
    label=1,
    seed=0,
    attack="clean",
    threat="none",
    prediction=1,
    correct=True,
    margin=2.5,
    size=0.0,
    forwards=1,
    backwards=0,
)


def clean(example: int, *, correct: bool = True) -> Record:
    return replace(CLEAN, example=example, image=f"world:{example}", prediction=int(correct), correct=correct)


def attacked(example: int, *, correct: bool = True, attack: str = "pgd:20") -> Record:
    return replace(clean(example, correct=correct), attack=attack, threat="linf:4/255:native", size=4 / 255)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


def test_json_round_trip_is_exact_and_one_line():
    record = replace(attacked(1), margin=0.1 + 0.2, image="ü\n\u2028:1")
    assert "\n" not in record.to_json()
    assert Record.from_json(record.to_json()) == record
    assert list(json.loads(record.to_json())) == list(asdict(record))


def test_record_is_frozen():
    with pytest.raises(FrozenInstanceError):
        CLEAN.label = 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "unknown extra"),
        ({"margin": None}, "margin is None, not float"),
        ({"correct": 1}, "correct is 1, not bool"),
        ({"label": True}, "label is True, not int"),
        ({"example": 1.0}, "example is 1.0, not int"),
        ({"correct": False}, "correct is False, prediction 1, label 1"),
        ({"threat": "linf:1/255:native"}, "attack 'clean' does not go with threat"),
        ({"example": -1}, "must not be negative"),
        ({"margin": float("nan")}, "must be finite"),
    ],
)
def test_from_json_is_strict(change, message):
    with pytest.raises(ValueError, match=message):
        Record.from_json(json.dumps(asdict(CLEAN) | change))


def test_from_json_names_missing_keys_and_takes_whole_numbers_as_floats():
    values = asdict(CLEAN)
    assert Record.from_json(json.dumps(values | {"margin": 2})).margin == 2.0
    del values["seed"], values["image"]
    with pytest.raises(ValueError, match="missing image, seed"):
        Record.from_json(json.dumps(values))


def test_append_then_read(path):
    records = [clean(0), attacked(0), clean(1, correct=False)]
    with RecordFile(path) as file:
        file.append(records[:2])
        file.append([])
        file.append(records[2:])
        assert file.read() == records
    assert path.read_text() == "".join(record.to_json() + "\n" for record in records)


def test_a_file_that_is_not_there_is_empty(path):
    assert RecordFile(path).read() == []
    assert RecordFile(path).done() == {}
    assert not path.exists()


@pytest.mark.parametrize("torn", ['{"model":"ti', attacked(1).to_json(), "\0\0"])
def test_a_torn_last_line_is_left_out_and_cut_away_on_appending(path, torn):
    with RecordFile(path) as file:
        file.append([clean(0)])
    with path.open("a") as stream:
        stream.write(torn)
    before = path.read_bytes()
    assert RecordFile(path).read() == [clean(0)]
    assert path.read_bytes() == before
    with RecordFile(path) as file:
        file.append([attacked(1)])
    assert RecordFile(path).read() == [clean(0), attacked(1)]


def test_a_broken_line_elsewhere_is_an_error_that_names_it(path):
    path.write_text(clean(0).to_json() + "\n{oops\n" + clean(1).to_json() + "\n")
    with pytest.raises(RunError, match="line 2 is broken"):
        RecordFile(path).read()
    with pytest.raises(RunError, match="line 2 is broken"):
        RecordFile(path).append([clean(2)])


def test_duplicates_are_errors_and_nothing_of_the_batch_is_written(path):
    with RecordFile(path) as file:
        file.append([clean(0)])
        for batch in ([clean(1), clean(0)], [clean(2), clean(2)]):
            with pytest.raises(RunError, match="a second record for model 'tiny', task 'shapes', example"):
                file.append(batch)
        file.append([clean(1), clean(2)])
    assert len(RecordFile(path).read()) == 3
    with RecordFile(path) as later, pytest.raises(RunError, match="a second record"):
        later.append([clean(2)])
    with path.open("a") as stream:
        stream.write(clean(0).to_json() + "\n")
    with pytest.raises(RunError, match="line 4 repeats line 1"):
        RecordFile(path).read()


def test_done_says_what_to_resume(path):
    other = replace(clean(0), seed=1)
    with RecordFile(path) as file:
        file.append([clean(0), clean(1, correct=False), clean(2), attacked(0), attacked(0, attack="fgsm"), other])
    done = RecordFile(path).done()
    assert set(done) == {Cell("tiny", "shapes", 0), Cell("tiny", "shapes", 1)}
    cell = done["tiny", "shapes", 0]
    assert cell.clean == {0, 1, 2}
    assert cell.correct == {0, 2}
    assert cell.attacked == {("pgd:20", "linf:4/255:native"): {0}, ("fgsm", "linf:4/255:native"): {0}}


@pytest.mark.parametrize("suite", ["autoattack", "paper", "paper:aa"])
def test_what_a_member_of_a_suite_broke_its_others_need_not_attack(suite):
    threat = "linf:4/255:native"
    done = Done()
    for record in (clean(0), clean(1), attacked(0, correct=False, attack=f"{suite}/apgd:ce")):
        done.add(record)
    needed = done.needs(f"{suite}/apgd:dlr", threat)
    assert [needed(example) for example in (0, 1)] == [False, True]
    assert done.settled(f"{suite}/apgd:dlr", threat) == {0}


@pytest.mark.parametrize("attack", ["pgd:20", "transfer:openai/clip", "pgd:5:step_size=1/255", "paper:pgd:100"])
def test_other_attacks_are_in_no_suite(attack):
    assert suite_of(attack) is None


ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from test_records import clean
from zsrobust.records import RecordFile
file = RecordFile(sys.argv[1])
written = {r.example for r in file.read()}
for start in range(0, 60, 4):
    batch = [clean(i) for i in range(start, start + 4) if i not in written]
    if batch:
        file.append(batch)
        print(batch[-1].example, flush=True)
"""


def test_sigkill_loses_no_finished_batch_and_counts_nothing_twice(path):
    command = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)]
    confirmed = -1
    for stop_after in (2, 3, None):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        for count, line in enumerate(process.stdout, start=1):
            confirmed = int(line)
            if count == stop_after:
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
        process.stdout.close()
        examples = [record.example for record in RecordFile(path).read()]
        assert examples[: confirmed + 1] == list(range(confirmed + 1))
    assert process.returncode == 0
    assert examples == list(range(60))


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_full_disk_is_one_clear_line_and_loses_nothing(path, monkeypatch, failing):
    with RecordFile(path) as file:
        file.append([clean(0)])
        with monkeypatch.context() as patch:
            if failing == "fsync":
                patch.setattr(os, "fsync", full_disk)
            else:
                file._file._stream = HalfWritten(file._file._stream)
            with pytest.raises(RunError, match=r"No space left on device; the 1 records already there are kept"):
                file.append([clean(1), clean(2)])
        assert RecordFile(path).read() == [clean(0)]
        file.append([clean(1), clean(2)])
    assert RecordFile(path).read() == [clean(0), clean(1), clean(2)]


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class HalfWritten:
    """A stream whose disk is full after ten more bytes."""

    def __init__(self, stream):
        self.stream, self.left = stream, 10

    def write(self, data):
        if not self.left:
            full_disk()
        self.left = 0
        return self.stream.write(data[:10])

    def __getattr__(self, name):
        return getattr(self.stream, name)


def test_a_place_that_cannot_be_written_or_read_is_a_run_error(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*No such file or directory"):
        RecordFile(tmp_path / "missing" / "records.jsonl").append([clean(0)])
    with pytest.raises(RunError, match=r"cannot read .*Is a directory"):
        RecordFile(tmp_path).read()


def test_two_writers_at_once_are_refused(path):
    with RecordFile(path) as first:
        first.append([clean(0)])
        with pytest.raises(RunError, match="being written by another process"):
            RecordFile(path).append([clean(1)])
    with RecordFile(path) as second:
        second.append([clean(1)])
    assert len(RecordFile(path).read()) == 2
