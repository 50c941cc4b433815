"""Reads and writes safetensors: a header of JSON that names each array's type, shape and bytes, then the bytes."""

import json
import math
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mixlm import files
from mixlm.errors import UserError
from mixlm.paths import within

# The format's names of types that parameters may have; its integers and booleans are none.
TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
LARGEST_HEADER = 100_000_000  # Bytes, as the reference implementation has it.
ENDINGS = (".safetensors", ".safetensors.index.json")


def is_safetensors(path: Path) -> bool:
    """True for names of a safetensors file, or of the index that Hugging Face writes beside several of them."""
    return path.name.endswith(ENDINGS)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name, or of all files that an index names; they stay on the disk until they are used.

    Raises UserError for a missing or torn file, and for a name in an index that leads out of its folder.
    """
    if not path.name.endswith(ENDINGS[1]):
        return _read_file(path)
    index: dict[str, Any] = files.read_json(path)
    names = index.get("weight_map")
    if not isinstance(names, dict):
        raise UserError(f"{path} is no index of safetensors files: it has no 'weight_map'.")
    found: dict[str, np.ndarray] = {}
    for place in {str(name): within(path.parent, name) for name in names.values()}.values():
        found |= _read_file(place)
    return found


def _read_file(path: Path) -> dict[str, np.ndarray]:
    with files.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LARGEST_HEADER, size - 8):
            raise UserError(f"{path} is torn or no safetensors file (the header is longer than the file).")
        header = files.parse_json(file.read(length), f"The header of {path}", dict)
        content = np.memmap(file, np.uint8, "r")[8 + length :]
    header.pop("__metadata__", None)
    return {
        name: _array(content, entry, f"{path} is torn or no safetensors file ({name!r:.200} ")
        for name, entry in header.items()
    }


def _array(content: np.ndarray, entry: Any, fault: str) -> np.ndarray:
    """The array of one entry of the header; UserError, which begins with `fault`, where it is none."""
    try:
        kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, start, end]
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{fault}has no dtype, shape and data_offsets).") from None
    if not isinstance(kind, str) or any(type(number) is not int or number < 0 for number in numbers):
        raise UserError(f"{fault}has a dtype, shape or data_offsets of another type).")
    if not start <= end <= len(content):
        raise UserError(f"{fault}has the bytes {start} to {end} of {len(content)}).")
    # What holds no floats keeps its bytes: it is refused by name where a network asks for it.
    if kind not in TYPES:
        return content[start:end]
    if end - start != math.prod(shape) * np.dtype(TYPES[kind]).itemsize:
        raise UserError(f"{fault}of shape {shape!s:.80} has {end - start} bytes).")
    return content[start:end].view(TYPES[kind]).reshape(shape)


def write_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes float32 arrays in their order, so that equal arrays make equal files; `path` is whole or not there.

    The header is padded with spaces to a multiple of eight bytes, and says that the names are PyTorch's.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.size * 4
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, end]}
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)
    with files.replacing(path, "wb") as file:
        file.write(len(packed).to_bytes(8, "little") + packed)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, "<f4").data)
