"""Reads from the folder of one whole checkpoint, maybe of another run, and leaves it as it is."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtyping import PyTree

from mixlm.checkpoints.compatibility import check_networks, check_same_arrays, networks_in, params_in, restacked
from mixlm.checkpoints.orbax_io import load_orbax, readable_errors
from mixlm.errors import UserError
from mixlm.params import laid_out_as

ITEM = "default"  # Orbax's name of the one item of a step.


def networks(folder: Path) -> list[str]:
    """The names of the networks in a whole checkpoint."""
    with reading(folder) as (metadata, _):
        return networks_in(metadata)


def read_params(folder: Path, abstract_params: dict[str, PyTree]) -> dict[str, PyTree]:
    """Reads the parameters of some networks from a whole checkpoint.

    `abstract_params` holds jax.ShapeDtypeStructs with shardings, of any mesh, under each network's name; the other
    networks and the optimizer's state, whichever it was, stay on the disk. Raises UserError for the first parameter
    that is missing, or whose shape or type differs. Layers that are stacked in one of the two and not in the other
    are stacked or taken apart.
    """
    with reading(folder) as (metadata, restore):
        check_networks(abstract_params, metadata, folder)
        shapes = {name: laid_out_as(tree, params_in(metadata, name)) for name, tree in abstract_params.items()}
        asked = {"params": shapes}
        check_same_arrays(asked, metadata, folder, whole=False)
        found = restore(asked)["params"]
    return {name: restacked(found[name], tree) for name, tree in abstract_params.items()}


def read_state(folder: Path, abstract_state: PyTree) -> PyTree:
    """Reads all of a whole checkpoint of a folder that may be another run's, and is only read.

    Raises UserError for the first array whose name, shape or type differs from that in `abstract_state`.
    """
    with reading(folder) as (metadata, restore):
        check_same_arrays(abstract_state, metadata, folder)
        try:
            return restore(abstract_state)
        except ValueError as error:
            # Two optimizers may differ in a part that holds no array.
            if "opt_state" in str(error):
                raise UserError(f"The checkpoint {folder} holds another optimizer's state.") from error
            raise


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[tuple[Any, Any]]:
    """Yields Orbax's metadata of a checkpoint, and a function that reads a tree of arrays from it.

    Without a manager, which would clear away what another process is writing.
    """
    ocp, item = load_orbax(), folder.absolute() / ITEM  # Orbax takes no relative paths

    def restore(asked: PyTree) -> PyTree:
        restore_args = ocp.checkpoint_utils.construct_restore_args(asked)
        args = ocp.args.PyTreeRestore(item=asked, restore_args=restore_args, partial_restore=True)
        return reader.restore(item, args=args)

    with (
        readable_errors(f"The checkpoint of step {folder.name} in {folder.parent} could not be read"),
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader,
    ):
        yield reader.metadata(item).item_metadata, restore
