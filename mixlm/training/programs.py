"""Programs that outlive a run: what one traced and compiled serves the next run of the same shapes in this process."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax

# Ours: a run has three (its first state, step and validation), so these are the programs of some ten shapes.
MOST = 32


@runtime_checkable
class _Closed(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closed)

_kept: OrderedDict[Hashable, Any] | None = None


@contextmanager
def kept() -> Iterator[None]:
    """Within this, programs are kept by what is static in them, the MOST used last; afterwards they are closed."""
    global _kept
    before, _kept = _kept, OrderedDict()
    try:
        yield
    finally:
        for program in _kept.values():
            program.close()
        _kept = before


def is_kept(program: Any) -> bool:
    """True for a program that another run may ask for."""
    return _kept is not None and any(each is program for each in _kept.values())


def program(key: Hashable, make: Callable[[], T]) -> T:
    """The program of this key, made where none is kept; outside of `kept` it is made each time."""
    if _kept is None:
        return make()
    with suppress(TypeError):  # Fields that have no hash have no place here.
        if key not in _kept:
            _kept[key] = make()
            while len(_kept) > MOST:
                _kept.popitem(last=False)[1].close()
        _kept.move_to_end(key)
        return _kept[key]
    return make()


def flat(tree: Any) -> tuple[Any, ...]:
    """A tree as a key: its leaves, such as shapes with shardings, and its structure."""
    leaves, structure = jax.tree.flatten(tree)
    return (*leaves, structure)
