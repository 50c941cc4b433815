"""Numbers as a person reads them: counts with SI prefixes, bytes with binary ones."""

import math
from collections.abc import Sequence
from typing import Any

INDENT = "  "


def parameters(tree: Any) -> int:
    """The number of entries in a tree of arrays."""
    import jax

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count(number: float) -> str:
    """A number with four figures and a prefix of a thousand's power: 4210000 -> '4.21 M'."""
    return _scaled(number, 1000, ("", "k", "M", "G", "T", "P", "E"))


def size(number: float) -> str:
    """Bytes with four figures: 2**20 -> '1 MiB'."""
    return _scaled(number, 1024, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"))


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    power = min(int(math.log(number, base)) if number >= 1 else 0, len(units) - 1)
    return f"{number / base**power:.4g} {units[power]}".rstrip()
