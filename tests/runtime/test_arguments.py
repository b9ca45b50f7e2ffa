"""Arguments: what is a number, a whole number, a flag, and what errors say of anything else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from worldsim.errors import InvalidInputError
from worldsim.runtime.arguments import flag, number, whole

JUNK = (
    None,
    "3",
    b"3",
    [1],
    {},
    math.nan,
    np.nan,
    1j,
    np.zeros(1),
    object(),
    int,
    True,
    np.bool_(True),
)


@pytest.mark.parametrize(
    "value", [3, 3.0, np.int64(3), np.float32(3.0), torch.tensor(3), np.array(3)]
)
def test_numbers_of_any_library(value: Any) -> None:
    assert number("a", value, 0, 9) == 3.0 and type(number("a", value, 0, 9)) is float
    assert whole("a", value, 3, 3) == 3 and type(whole("a", value)) is int


@pytest.mark.parametrize("value", JUNK)
def test_no_numbers(value: Any) -> None:
    for check in (number, whole):
        with pytest.raises(InvalidInputError, match="^a = .*it must be a"):
            check("a", value)


def test_ranges() -> None:
    for value in (-0.1, 9.1, math.inf, -math.inf, 10**400, -(10**400)):
        with pytest.raises(InvalidInputError, match="a number from 0 to 9 metres"):
            number("a", value, 0, 9, "metres")
    for value in (-1, 10, 2.5, math.inf, 10**400):
        with pytest.raises(InvalidInputError, match="a whole number from 0 to 9"):
            whole("a", value, 0, 9)
    with pytest.raises(InvalidInputError) as error:
        number("a", "x" * 1000)
    assert len(str(error.value)) < 200


def test_flags() -> None:
    assert flag("a", True) is True
    for value in (1, "yes", None, np.bool_(True)):
        with pytest.raises(InvalidInputError, match="True or False"):
            flag("a", value)
