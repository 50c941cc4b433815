"""Writes T5X checkpoints without T5X: one zarr array for every parameter, and last the msgpack index of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from mixlm import files
from mixlm.checkpoints.from_t5x import VERSION
from mixlm.errors import UserError
from mixlm.paths import make_within, within

CHUNK_BYTES = 64 * 2**20  # As T5X's, so that its readers find the sizes that they are used to.


def write_checkpoint(folder: Path, step: int, params: Any, param_states: Any = None) -> Path:
    """Writes `folder`/checkpoint_STEP, which the index makes whole, and returns its path.

    `params` is a tree of arrays in T5X's names, its layers apart; `param_states` is the optimizer's state of each of
    them, such as {"v_row": ..., "v_col": ..., "v": ..., "m": ...}, or None for a checkpoint without one. An array of
    one entry, which stands for nothing, and the step lie in the index itself. Raises UserError where the disk refuses.
    """
    state = {"step": np.asarray(step, np.int32)}
    arrays = {("target", *path): value for path, value in flatten_dict(params).items()}
    if param_states is not None:
        arrays |= {("state", "param_states", *path): value for path, value in flatten_dict(param_states).items()}
    place = make_within(folder, f"checkpoint_{step}")
    index: dict[tuple[str, ...], Any] = {("state", name): value for name, value in state.items()}
    pending = []
    for path, value in sorted(arrays.items()):
        array = np.asarray(value)
        if path[0] == "state" and array.shape == (1,):
            index[path] = array
            continue
        index[path] = spec = _spec(".".join(path), array)
        pending.append((path, _write(place, spec, array)))
    for path, future in pending:
        try:
            future.result()
        except (ValueError, OSError) as error:
            raise UserError(f"The array {'/'.join(path)!r} cannot be written in {place}: {error}.") from error
    content = {"version": VERSION, "optimizer": unflatten_dict(dict(sorted(index.items())))}
    with files.replacing(within(place, "checkpoint"), "wb") as file:
        file.write(serialization.msgpack_serialize(content))
    return place


def _spec(name: str, array: np.ndarray) -> dict[str, Any]:
    """The entry of an array in the index, its place relative to the checkpoint."""
    metadata = {"compressor": {"id": "gzip", "level": 1}, "shape": list(array.shape), "chunks": chunks(array)}
    kvstore = {"driver": "file", "path": f"{name}/"}
    return {"driver": "zarr", "dtype": array.dtype.name, "kvstore": kvstore, "metadata": metadata}


def _write(place: Path, spec: Mapping[str, Any], array: np.ndarray) -> Any:
    """Begins to write an array, and returns the future of that."""
    where = within(place, spec["kvstore"]["path"].rstrip("/"))
    kvstore = {"driver": "file", "path": f"{where.absolute()}/"}
    store = tensorstore.open({**spec, "kvstore": kvstore}, create=True, open=False).result()
    return store.write(np.ascontiguousarray(array))


def chunks(array: np.ndarray) -> list[int]:
    """The shape of an array's chunks: whole, or its longest axis divided evenly until a chunk is below CHUNK_BYTES."""
    shape = list(array.shape)
    while np.prod(shape, dtype=np.int64) * array.itemsize > CHUNK_BYTES:
        axis = int(np.argmax(shape))
        shape[axis] = next(part for part in range(shape[axis] - 1, 0, -1) if array.shape[axis] % part == 0)
    return shape
