from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsrobust.randomness import Draws, generator, uniform

CPU = torch.device("cpu")
keys = st.lists(st.one_of(st.integers(), st.text(st.characters(exclude_characters="\x1f"), max_size=3)), max_size=3)


def numbers(*key: str | int) -> list[float]:
    return torch.rand(4, generator=generator(*key)).tolist()


@given(keys, keys)
def test_equal_keys_and_no_others_give_equal_numbers(one: list[str | int], other: list[str | int]) -> None:
    assert (numbers(*one) == numbers(*other)) == (one == other)


def test_a_number_is_not_its_text_and_parts_do_not_run_together() -> None:
    different = [(1,), ("1",), (11,), (1, 1), ("1", 1), (1, "1"), (), ("",), ("", "")]
    assert len({tuple(numbers(*key)) for key in different}) == len(different)


def test_a_row_depends_on_its_key_alone() -> None:
    rows = [(0, example, "pgd", 0) for example in range(5)]
    together = uniform(rows, (3, 2, 2), device=CPU)
    assert together.shape == (5, 3, 2, 2)
    for i in (3, 0):
        assert torch.equal(uniform([rows[i]], (3, 2, 2), device=CPU)[0], together[i])
    assert torch.equal(uniform(rows[::-1], (3, 2, 2), device=CPU).flip(0), together)
    assert len(together.unique()) == together.numel()
    assert uniform([], (3, 2, 2), device=CPU).shape == (0, 3, 2, 2)


def test_the_state_of_torch_is_neither_read_nor_changed() -> None:
    before = torch.get_rng_state()
    first = uniform([(0,)], (10,), device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert torch.equal(uniform([(0,)], (10,), device=CPU), first)


def drawn() -> list[float]:
    return [float(torch.rand(())), float(np.random.rand()), random.random()]


def test_draws_go_on_where_they_were_and_the_callers_generators_too() -> None:
    with Draws(CPU, 1, "a"):
        whole = drawn() + drawn()
    with Draws(CPU, 1, "b"):
        mine = drawn()
    draws, outer = Draws(CPU, 1, "a"), Draws(CPU, 1, "b")
    parts, own = [], []
    for _ in range(2):
        with outer:
            with draws:
                parts += drawn()
            own += drawn()
    assert parts == whole
    assert own[:3] == mine
    assert len({*whole, *own}) == 12
    with outer, pytest.raises(ZeroDivisionError), draws:  # an error puts them back as well
        raise ZeroDivisionError
    with Draws(CPU, 1, "a"):
        assert drawn() == whole[:3]


def test_uniform_numbers_are_float32_in_the_unit_interval() -> None:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        rows = uniform([(i,) for i in range(100)], (1000,), device=CPU)
    finally:
        torch.set_default_dtype(default)
    assert rows.dtype == torch.float32
    assert 0 <= float(rows.min()) < 1e-3
    assert 1 - 1e-3 < float(rows.max()) < 1
    assert abs(float(rows.mean()) - 0.5) < 3e-3


def test_the_numbers_of_a_key_are_the_same_in_every_version() -> None:
    # A stored result is only repeatable while this holds.
    digest = hashlib.sha256(uniform([(0, 17, "pgd", 2)], (64,), device=CPU).numpy().tobytes()).hexdigest()
    assert digest == "a98cd243a1850d89438cc843fc7298443f832fefce340d8d66158705b86d4b6f"
