"""Numbers that vary are taken out of an objective and put back; everything else stays as it is."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest

from mixlm.training.traced_hparams import Placeholder, bind, hoist


@dataclass(frozen=True)
class Rate:
    traced: ClassVar[tuple[str, ...]] = ("value",)
    value: float

    def __post_init__(self):
        if not 0 <= self.value <= 1:
            raise ValueError("a rate")


@dataclass(frozen=True)
class Inner:
    width: int
    rate: Rate


@dataclass(frozen=True)
class Mixed:
    traced: ClassVar[tuple[str, ...]] = ("shares",)
    parts: tuple[Inner, ...]
    shares: tuple[float, ...]
    scale: float = 3.0


def mixed(rate: float, share: float, width: int = 4) -> Mixed:
    return Mixed((Inner(width, Rate(rate)), Inner(5, Rate(0.5))), (share, 1))


def test_numbers_go_out_and_come_back():
    static, numbers = hoist(mixed(0.25, 0.75))
    assert numbers == (0.25, 0.5, 0.75, 1.0)
    assert static.parts[0].rate.value == Placeholder(0) and static.shares == (Placeholder(2), Placeholder(3))
    assert static.scale == 3.0 and static.parts[0].width == 4
    assert bind(static, numbers) == mixed(0.25, 0.75)


def test_two_values_are_one_static_objective_and_two_structures_are_not():
    one, other = hoist(mixed(0.1, 0.2))[0], hoist(mixed(0.9, 0.3))[0]
    assert one == other and hash(one) == hash(other)
    assert hoist(mixed(0.1, 0.2, width=9))[0] != one


def test_a_number_in_no_traced_field_stays_static():
    assert hoist(Inner(3, Rate(0.5)))[0].width == 3
    assert hoist(Mixed((), (), scale=2.0))[0] != hoist(Mixed((), (), scale=3.0))[0]


@pytest.mark.parametrize("rate", [0.25, 7.0])
def test_put_back_under_jit_nothing_is_validated_or_baked_in(rate):
    static, _ = hoist(mixed(0.5, 0.5))

    @jax.jit
    def total(numbers):
        objective = bind(static, numbers)
        return objective.parts[0].rate.value * objective.shares[0]

    assert total((jnp.float32(rate), jnp.float32(1), jnp.float32(2), jnp.float32(1))) == 2 * rate
    assert total._cache_size() == 1
