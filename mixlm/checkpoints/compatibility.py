"""Compatibility of a checkpoint with the arrays that a run asks for: names, shapes, types."""

from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import unflatten_dict
from jaxtyping import PyTree

from mixlm.errors import UserError, nearest
from mixlm.params import is_stacked, laid_out_as


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves by a path such as params/model/kernel; Orbax's metadata hold fields and keys alike."""

    def name(entry: Any) -> str:
        return str(next(getattr(entry, field) for field in ("key", "name", "idx") if hasattr(entry, field)))

    return {"/".join(map(name, path)): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def networks_in(metadata: Any) -> list[str]:
    """The names of the networks whose parameters a checkpoint's metadata list."""
    return sorted({name.split("/")[1] for name in named(metadata.tree) if name.startswith("params/")})


def params_in(metadata: Any, network: str) -> dict[str, Any]:
    """One network's parameters in a checkpoint's metadata, as a tree of shapes."""
    start = f"params/{network}/"
    found = {name.removeprefix(start): leaf for name, leaf in named(metadata.tree).items() if name.startswith(start)}
    return dict(unflatten_dict(found, sep="/"))


def check_networks(abstract_params: dict[str, PyTree], metadata: Any, folder: Path) -> None:
    """Raises UserError for the first network that the checkpoint in `folder` lacks."""
    written = networks_in(metadata)
    for network in abstract_params:
        if network not in written:
            networks = " and ".join(map(repr, written)) or "none"
            close = nearest(network, written)
            raise UserError(f"The checkpoint {folder} holds no network {network!r}, only {networks}.{close}")


def check_same_arrays(abstract_state: PyTree, metadata: Any, folder: Path, whole: bool = True) -> None:
    """Raises UserError for the first array that differs in name, shape or type; with `whole` none may be left over."""
    asked, written = named(abstract_state), named(getattr(metadata, "tree", metadata))
    for name, leaf in asked.items():
        if name not in written:
            raise UserError(f"The checkpoint {folder} has no {name}, which this run needs; {_whose(name)}.")
        for what in ("shape", "dtype"):
            here, there = getattr(leaf, what), getattr(written[name], what)
            if here != there:
                raise UserError(f"{name} has {what} {there} in the checkpoint {folder} and {here} in this run.")
    for name in written if whole else ():
        if name not in asked:
            raise UserError(f"The checkpoint {folder} holds {name}, which this run lacks; {_whose(name)}.")


def _whose(name: str) -> str:
    return f"it is another {'optimizer' if name.startswith('opt_state/') else 'network'}'s"


def restacked(params: PyTree, asked: PyTree) -> PyTree:
    """The parameters with layers stacked, or not, as in `asked`, and with its shardings."""
    if is_stacked(params) == is_stacked(asked):
        return params
    shardings = jax.tree.map(lambda leaf: leaf.sharding, asked)
    return jax.jit(lambda params: laid_out_as(params, asked), out_shardings=shardings)(params)
