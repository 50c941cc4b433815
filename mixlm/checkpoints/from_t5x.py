"""Reads T5X checkpoints without T5X: a msgpack index that names one zarr array for every parameter."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore
from flax import serialization
from flax.core import meta
from flax.traverse_util import flatten_dict, unflatten_dict

from mixlm import files
from mixlm.errors import UserError, nearest
from mixlm.params import laid_out_as, unstack_layers
from mixlm.paths import local, within

Params = dict[str, Any]
PREFIXES = ("target/", "params/")
# The stacks of T5X's scalable_t5 are named "layers", those of other scanned networks like what they are a part of.
SCANNED = re.compile(r"(encoder|decoder)/(\1|layers)/(.+)")
# T5X's format since June 2021; the older one hides bfloat16 behind uint16.
VERSION = 3
LARGEST_INDEX = 2 * 2**30  # Ours: T5X keeps in the index only what it does not shard.


def load_checkpoint(path: str | Path, template: Any = None) -> Params:
    """Loads the parameters of a T5X checkpoint as a tree of float32 numpy arrays; the optimizer's state stays unread.

    `path` is a `checkpoint_N` folder, or the folder of several, of which the newest is read. `template` is a parameter
    tree (or its shapes) to check against, as in `params_from_flat`. Raises `UserError` for a missing folder or array, a
    torn file, or what does not fit the template.
    """
    folder = newest_checkpoint(local(path, "The checkpoint"))
    index = read_index(folder / "checkpoint")
    return params_from_flat(read_arrays(folder, index), template)


def params_from_flat(flat: Mapping[str, Any], template: Any = None) -> Params:
    """Turns arrays under T5X's names into a parameter tree of float32 numpy arrays.

    Names are separated by "/" or ".", such as "encoder/layers_0/mlp/wo/kernel". Where some carry the prefix "target/"
    or "params/", only those are parameters (beside them lie an optimizer's state, a batch, figures). Raises `UserError`
    for a name or a shape that differs from `template` (a parameter tree, or its shapes), and for what is no array of
    floats. Stacked layers are taken apart, and stacked again where the template's are.
    """
    arrays = unscanned({name: as_float32(name, value) for name, value in strip_names(flat).items()})
    for name in arrays:
        parts = name.split("/")
        for parent in ("/".join(parts[:depth]) for depth in range(1, len(parts))):
            if parent in arrays:
                raise UserError(f"{parent!r} names an array and a folder of arrays ({name!r}).")
    return fitted(arrays, template)


def strip_names(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `flat` under plain names, separated by "/"."""
    slashed = {name if "/" in name else name.replace(".", "/"): value for name, value in flat.items()}
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in slashed):
            slashed = {name.removeprefix(prefix): value for name, value in slashed.items() if name.startswith(prefix)}
            break
    if not slashed:
        raise UserError("There are no parameters among the given arrays.")
    return slashed


def unscanned(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with those of a scanned stack, whose second axis T5X gives to the layers, taken apart by layer.

    Raises `UserError` for the relative bias that each of T5X's scanned layers has of its own.
    """
    found: dict[str, Any] = {}
    for name, value in arrays.items():
        match = SCANNED.fullmatch(name)
        if match is None:
            found[name] = value
        elif match[3].startswith("relative_posemb/"):
            raise UserError(f"{name!r} holds a relative bias for each layer, and in this network they share one.")
        elif np.ndim(value) < 2:
            raise UserError(f"{name!r} is of shape {np.shape(value)}, and holds no stack of layers.")
        else:
            layers = np.moveaxis(np.asarray(value), 1, 0)
            found |= {f"{match[1]}/layers_{index}/{match[3]}": layer for index, layer in enumerate(layers)}
    return found


def as_float32(name: str, value: Any) -> np.ndarray:
    """The array as float32; raises `UserError` where it does not hold floats."""
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"{name!r} holds {array.dtype}, and a parameter is an array of floats.")
    return array.astype(np.float32, copy=False)


def fitted(arrays: Mapping[str, np.ndarray], template: Any) -> Params:
    """The tree of arrays that are named layer by layer, in the layout of `template`, if given, which it must fit."""
    tree = unflatten_dict(dict(arrays), sep="/")
    if template is None:
        return tree
    check_template(arrays, template)
    return laid_out_as(tree, template)


def check_template(arrays: Mapping[str, np.ndarray], template: Any) -> None:
    """Raises `UserError` for the first name or shape in which `arrays` and `template`, layer by layer, differ."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), meta.unbox(template))
    layered = unstack_layers(shapes)
    expected = {name: tuple(leaf.shape) for name, leaf in flatten_dict(layered, sep="/").items()}
    missing = sorted(expected.keys() - arrays.keys())
    for name in sorted(arrays.keys() - expected.keys()):
        raise UserError(f"{name!r} is no parameter of this network.{nearest(name, missing or expected)}")
    for name in missing:
        raise UserError(f"The network's {name!r} is missing among the given arrays.")
    for name, shape in sorted(expected.items()):
        if arrays[name].shape != shape:
            raise UserError(f"{name!r} is of shape {arrays[name].shape}, and the network's is {shape}.")


def newest_checkpoint(path: Path) -> Path:
    """The checkpoint folder that `path` is or, by step number, the newest that it holds."""
    if (path / "checkpoint").is_file():
        return path
    if not path.is_dir():
        raise UserError(f"There is no checkpoint folder at {str(path)!r}.")
    steps = checkpoints_in(path)
    if not steps:
        raise UserError(
            f"{str(path)!r} holds neither a T5X checkpoint (a file named 'checkpoint') nor a checkpoint_N folder."
        )
    return steps[max(steps)]


def checkpoints_in(path: Path) -> dict[int, Path]:
    """The checkpoint folders by step of which `path` is one, or which it holds; one without a step in its name is 0."""
    if (path / "checkpoint").is_file():
        named = re.fullmatch(r"checkpoint_(\d+)", path.name)
        return {int(named[1]) if named else 0: path}
    return {
        int(match[1]): child
        for child in (path.iterdir() if path.is_dir() else ())
        if (match := re.fullmatch(r"checkpoint_(\d+)", child.name)) and (child / "checkpoint").is_file()
    }


def read_index(file: Path) -> dict[str, Any]:
    """The index's parameters under plain names: arrays that lie in the index itself, and where the others are."""
    packed = files.read_bytes(file, LARGEST_INDEX)
    try:
        content = serialization.msgpack_restore(packed)
    except Exception as error:  # a torn index can fail anywhere inside of the decoder
        raise UserError(f"{str(file)!r} is torn or no T5X checkpoint index ({type(error).__name__}).") from error
    optimizer = content.get("optimizer") if isinstance(content, dict) else None
    target = optimizer.get("target") if isinstance(optimizer, dict) else None
    if not isinstance(target, dict) or not target:
        raise UserError(f"{str(file)!r} names no parameters ('optimizer/target'), as a T5X checkpoint does.")
    if content.get("version") != VERSION:
        raise UserError(
            f"{str(file)!r} is of T5X's version {content.get('version')}, and version {VERSION} is read here."
        )
    try:
        return flatten_dict(target, sep="/", is_leaf=lambda _, value: "driver" in value)
    except (TypeError, RecursionError) as error:
        raise UserError(f"{str(file)!r} names parameters by other than text, or too deep.") from error


def read_arrays(folder: Path, index: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Reads what the index points to, all arrays at a time."""
    stores = {name: open_array(folder, name, spec) for name, spec in index.items() if isinstance(spec, dict)}
    pending = {name: store.read() for name, store in stores.items()}
    arrays = {name: value for name, value in index.items() if name not in stores}
    for name, future in pending.items():
        try:
            arrays[name] = future.result()
        except ValueError as error:
            raise UserError(f"The array of {name!r} in {str(folder)!r} is torn.") from error
    return arrays


def open_array(folder: Path, name: str, spec: Mapping[str, Any]) -> Any:
    """Opens one zarr array beside the index, and proves that all of its chunks are there."""
    kvstore = spec.get("kvstore")
    place = kvstore.get("path") if isinstance(kvstore, dict) else spec.get("path")
    if spec["driver"] != "zarr" or not place:
        raise UserError(
            f"The index of {str(folder)!r} stores {name!r} as {spec['driver']!r:.80}, and only zarr is read here."
        )
    where = within(folder, place)
    description = within(where, ".zarray")
    kvstore = {"driver": "file", "path": f"{where}/"}
    try:
        files.read_json(description)  # no pipe, for which tensorstore would wait
        store = tensorstore.open({"driver": "zarr", "kvstore": kvstore}, open=True, read=True).result()
    except ValueError as error:
        raise UserError(f"The array of {name!r} is missing or torn: {str(where)!r} cannot be opened.") from error
    metadata = spec.get("metadata")
    shape = metadata.get("shape", store.shape) if isinstance(metadata, dict) else store.shape
    shape = tuple(shape) if isinstance(shape, list) else shape
    if store.shape != shape:
        raise UserError(
            f"The array of {name!r} is of shape {store.shape}, and the checkpoint's index says {shape!s:.80}."
        )
    require_chunks(name, where, store.spec().to_json()["metadata"])
    return store


def require_chunks(name: str, where: Path, metadata: Mapping[str, Any]) -> None:
    """Raises `UserError` for a missing chunk, which zarr would read as zeros without a word."""
    counts = [-(-size // chunk) for size, chunk in zip(metadata["shape"], metadata["chunks"])]
    for chunk in np.ndindex(*counts):
        file = within(where, metadata.get("dimension_separator", ".").join(map(str, chunk)) or "0")
        if not file.is_file():
            raise UserError(f"The array of {name!r} is torn: its chunk {str(file)!r} is missing.")
