"""The token store: every document's tokens in one memory-mapped file per split, written once."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt

from mixlm.errors import UserError

STORE_VERSION = 1
# Ours: below this size the checksums are verified at every opening, which costs some tens of milliseconds.
VERIFY_BYTES = 64 * 2**20


class Tokenized(NamedTuple):
    """One document as the builder takes it: its token ids and the size of its text in UTF-8 bytes."""

    tokens: np.ndarray
    text_bytes: int


@dataclass(frozen=True, eq=False)
class StoreSplit:
    """A split's tokens, one after the other; document d is `tokens[offsets[d]:offsets[d + 1]]`."""

    tokens: UInt[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " bounds"]
    text_bytes: int

    @property
    def num_documents(self) -> int:
        """How many documents the split holds."""
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        """How many tokens the split holds."""
        return len(self.tokens)


@dataclass(frozen=True)
class TokenStore:
    """A folder of `SPLIT.tokens` (uint16, or uint32 for over 65,536 ids), `SPLIT.offsets` (int64) and `manifest.json`.

    Many processes may read it. The manifest records the fingerprints of the text and of the vocabulary, the counts,
    and the size and SHA-256 of each file.
    """

    folder: Path
    manifest: dict

    @staticmethod
    def open(folder: Path, fingerprint: str | None = None, vocabulary_fingerprint: str | None = None) -> "TokenStore":
        """The store in `folder`; raises UserError, naming the file, where it is missing, stale or damaged."""
        path = folder / "manifest.json"
        try:
            manifest = json.loads(path.read_bytes())
            version, files = manifest["version"], manifest["files"]
            found = manifest["fingerprint"], manifest["vocabulary_fingerprint"]
        except FileNotFoundError:
            raise UserError(f"There is no token store at {folder}.") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"The token store's file {path} is damaged.") from None
        wanted = fingerprint or found[0], vocabulary_fingerprint or found[1]
        if version != STORE_VERSION or found != wanted:
            raise UserError(f"The token store {folder} holds other data than this run asks for.")
        store = TokenStore(folder, manifest)
        store._check_sizes()
        if sum(entry["bytes"] for entry in files.values()) <= VERIFY_BYTES:
            store.verify()
        return store

    def verify(self) -> None:
        """Compares every file's SHA-256 with the manifest; raises UserError that names the first damaged file."""
        for name, entry in self.manifest["files"].items():
            with open(self.folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    raise UserError(f"The token store's file {self.folder / name} is damaged: its SHA-256 is wrong.")

    def split(self, name: str) -> StoreSplit:
        """A split's tokens and offsets, mapped from the disk and read-only."""
        facts = self.manifest["splits"][name]
        tokens = self._mapped(f"{name}.tokens", np.dtype(self.manifest["dtype"]))
        return StoreSplit(tokens, self._mapped(f"{name}.offsets", np.dtype("<i8")), facts["text_bytes"])

    def _mapped(self, name: str, dtype: np.dtype) -> np.ndarray:
        # An empty file cannot be mapped.
        if not self.manifest["files"][name]["bytes"]:
            return np.zeros(0, dtype)
        return np.memmap(self.folder / name, dtype, mode="r")

    def _check_sizes(self) -> None:
        for name, entry in self.manifest["files"].items():
            path = self.folder / name
            size = path.stat().st_size if path.exists() else 0
            if not path.exists() or size != entry["bytes"]:
                raise UserError(
                    f"The token store's file {path} is damaged: it has {size:,} of {entry['bytes']:,} bytes."
                )


def build(
    folder: Path,
    splits: Mapping[str, Iterable[Tokenized]],
    vocab_size: int,
    fingerprint: str,
    vocabulary_fingerprint: str,
) -> TokenStore:
    """Writes a store atomically, one document in memory at a time; of several builders at once the first one counts."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    scratch.mkdir()
    try:
        dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        facts = {name: _write_split(scratch, name, documents, dtype) for name, documents in splits.items()}
        manifest = {
            "version": STORE_VERSION,
            "fingerprint": fingerprint,
            "vocabulary_fingerprint": vocabulary_fingerprint,
            "vocab_size": vocab_size,
            "dtype": dtype.str,
            "splits": facts,
            "files": {path.name: _file_entry(path) for path in sorted(scratch.iterdir())},
        }
        _write_synced(scratch / "manifest.json", [json.dumps(manifest, indent=1).encode()])
        _move_into_place(scratch, folder, fingerprint, vocabulary_fingerprint)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return TokenStore.open(folder, fingerprint, vocabulary_fingerprint)


def open_or_build(
    folder: Path,
    splits: Callable[[], Mapping[str, Iterable[Tokenized]]],
    vocab_size: int,
    fingerprint: str,
    vocabulary_fingerprint: str,
    log: Callable[[str], object] = print,
) -> TokenStore:
    """The store in `folder`, built first where there is none, and built again, with a note, where it is damaged."""
    if folder.exists():
        try:
            return TokenStore.open(folder, fingerprint, vocabulary_fingerprint)
        except UserError as error:
            log(f"{error} It is built again.")
    return build(folder, splits(), vocab_size, fingerprint, vocabulary_fingerprint)


def _write_split(folder: Path, name: str, documents: Iterable[Tokenized], dtype: np.dtype) -> dict[str, int]:
    offsets, text_bytes = [0], 0

    def payloads() -> Iterator[bytes]:
        nonlocal text_bytes
        for document in documents:
            if len(document.tokens) and document.tokens.max() > np.iinfo(dtype).max:
                raise ValueError(f"token id {document.tokens.max()} does not fit into {dtype}")
            offsets.append(offsets[-1] + len(document.tokens))
            text_bytes += document.text_bytes
            yield document.tokens.astype(dtype).tobytes()

    _write_synced(folder / f"{name}.tokens", payloads())
    _write_synced(folder / f"{name}.offsets", [np.asarray(offsets, "<i8").tobytes()])
    return {"documents": len(offsets) - 1, "tokens": offsets[-1], "text_bytes": text_bytes}


def _write_synced(path: Path, payloads: Iterable[bytes]) -> None:
    with open(path, "wb") as file:
        for payload in payloads:
            file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _file_entry(path: Path) -> dict[str, object]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _move_into_place(scratch: Path, folder: Path, fingerprint: str, vocabulary_fingerprint: str) -> None:
    """Renames the finished folder; one that is already there stays if it is whole, and gives way if it is damaged."""
    for _ in range(10):
        try:
            os.rename(scratch, folder)
            break
        except OSError:
            if not folder.exists():
                raise
        try:
            TokenStore.open(folder, fingerprint, vocabulary_fingerprint)
            return
        except UserError:
            # Moved aside rather than deleted in place: another process may be reading or replacing it too.
            aside = folder.with_name(f".{folder.name}.damaged.{uuid.uuid4().hex}")
            try:
                os.rename(folder, aside)
            except FileNotFoundError:
                continue
            shutil.rmtree(aside, ignore_errors=True)
    parent = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
