"""Reads safetensors files: a header of JSON that names each array's type, shape and bytes, then the bytes."""

import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

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
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is missing, torn or no index of safetensors files.") from error
    found: dict[str, np.ndarray] = {}
    for name in sorted(names, key=str):
        found |= _read_file(within(path.parent, name))
    return found


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        content = np.memmap(path, np.uint8, "r")
        length = int(content[:8].view("<u8")[0])
        if length > min(LARGEST_HEADER, len(content) - 8):
            raise ValueError("the header is longer than the file")
        header = json.loads(content[8 : 8 + length].tobytes())
        header.pop("__metadata__", None)
        return {name: _array(content[8 + length :], **entry) for name, entry in header.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is torn or no safetensors file ({str(error) or type(error).__name__}).") from error


def _array(content: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int], **_: Any) -> np.ndarray:
    start, end = data_offsets
    kind = TYPES.get(dtype)
    # What holds no floats keeps its bytes: it is refused by name where a network asks for it.
    if kind is None:
        return content[start:end]
    if not 0 <= start <= end <= len(content) or end - start != math.prod(shape) * np.dtype(kind).itemsize:
        raise ValueError(f"an array of shape {shape} has the bytes {start} to {end} of {len(content)}")
    return content[start:end].view(kind).reshape(shape)
