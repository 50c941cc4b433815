"""The token store: every document's tokens in one memory-mapped file per split, written once."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt

from mixlm import files
from mixlm.data.store.file_lock import exclusive
from mixlm.data.store.journal import JOURNAL, Documents, Journal, Tokenized, write_split
from mixlm.errors import UserError
from mixlm.files import replacing
from mixlm.paths import refuse_link, within

__all__ = ["Documents", "StoreSplit", "TokenStore", "Tokenized", "open_or_build"]

DTYPES = ("<u2", "<u4")
STORE_VERSION = 1
# Ours: below this size the checksums are verified at every opening, which costs some tens of milliseconds.
VERIFY_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class StoreSplit:
    """A split's tokens, one after the other; document d is `tokens[offsets[d]:offsets[d + 1]]`.

    Of supervised examples, whose document is the inputs and then the targets, the targets begin at `targets[d]`.
    """

    tokens: UInt[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " bounds"]
    text_bytes: int
    targets: Int64[np.ndarray, " documents"] | None = None

    @property
    def num_documents(self) -> int:
        """The number of documents."""
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        """The number of tokens."""
        return len(self.tokens)


@dataclass(frozen=True)
class TokenStore:
    """A folder of `SPLIT.tokens` (uint16, or uint32 for over 65,536 ids), `SPLIT.offsets` (int64) and `manifest.json`.

    Supervised examples have `SPLIT.targets` (int64) as well. Many processes may read it. The manifest records the
    fingerprints of the text and of the vocabulary, the counts, and the size and SHA-256 of each file.
    """

    folder: Path
    manifest: dict

    @staticmethod
    def open(folder: Path, fingerprint: str | None = None, vocabulary_fingerprint: str | None = None) -> "TokenStore":
        """The store in `folder`; raises UserError, naming the file, where it is missing, stale or damaged."""
        path = folder / "manifest.json"
        if not os.path.lexists(path):
            raise UserError(f"There is no token store at {folder}.")
        manifest: dict[str, Any] = files.read_json(path)
        # One without a checksum is no whole manifest: a store is built anew rather than taken on trust.
        if manifest.pop("checksum", None) != _checksum(manifest):
            raise UserError(f"The token store's file {path} is damaged.")
        found = manifest.get("fingerprint"), manifest.get("vocabulary_fingerprint")
        wanted = fingerprint or found[0], vocabulary_fingerprint or found[1]
        if manifest.get("version") != STORE_VERSION or found != wanted:
            raise UserError(f"The token store {folder} holds other data than this run asks for.")
        if not _is_manifest(manifest):
            raise UserError(f"The token store's file {path} is damaged.")
        store = TokenStore(folder, manifest)
        store._check_sizes()
        if sum(entry["bytes"] for entry in manifest["files"].values()) <= VERIFY_BYTES:
            store.verify()
        return store

    def verify(self) -> None:
        """Compares every file's SHA-256 with the manifest; raises UserError that names the first damaged file."""
        for name, entry in self.manifest["files"].items():
            with files.open_regular(within(self.folder, name)) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    raise UserError(f"The token store's file {self.folder / name} is damaged: its SHA-256 is wrong.")

    def split(self, name: str) -> StoreSplit:
        """A split's tokens and offsets, mapped from the disk and read-only."""
        facts = self.manifest["splits"][name]
        tokens = self._mapped(f"{name}.tokens", np.dtype(self.manifest["dtype"]))
        offsets = self._mapped(f"{name}.offsets", np.dtype("<i8"))
        supervised = f"{name}.targets" in self.manifest["files"]
        targets = self._mapped(f"{name}.targets", np.dtype("<i8")) if supervised else None
        return StoreSplit(tokens, offsets, facts["text_bytes"], targets)

    def _mapped(self, name: str, dtype: np.dtype) -> np.ndarray:
        # An empty file cannot be mapped.
        if not self.manifest["files"][name]["bytes"]:
            return np.zeros(0, dtype)
        with files.open_regular(within(self.folder, name)) as file:
            return np.memmap(file, dtype, mode="r")

    def _check_sizes(self) -> None:
        for name, entry in self.manifest["files"].items():
            path = within(self.folder, name)
            size = path.stat().st_size if path.exists() else 0
            if not path.exists() or size != entry["bytes"]:
                raise UserError(
                    f"The token store's file {path} is damaged: it has {size:,} of {entry['bytes']:,} bytes."
                )


def open_or_build(
    folder: Path,
    splits: Callable[[], Mapping[str, Documents]],
    vocab_size: int,
    fingerprint: str,
    vocabulary_fingerprint: str,
    log: Callable[[str], object] = print,
) -> TokenStore:
    """The store in `folder`, built first where there is none, and built again, with a note, where it is damaged.

    Of several processes one builds, and the others wait for it. What a killed build had brought to the disk is kept
    beside `folder`, and the next one goes on from there.
    """
    if folder.exists():
        try:
            return TokenStore.open(folder, fingerprint, vocabulary_fingerprint)
        except UserError as error:
            log(f"{error} It is built again.")

    def waiting() -> None:
        log(f"Another process is building the token store {folder}; waiting for it.")

    with exclusive(folder.with_name(f".{folder.name}.lock"), waiting):
        if folder.exists():
            with contextlib.suppress(UserError):
                return TokenStore.open(folder, fingerprint, vocabulary_fingerprint)
        return _build(folder, splits(), vocab_size, fingerprint, vocabulary_fingerprint, log)


def _build(
    folder: Path,
    splits: Mapping[str, Documents],
    vocab_size: int,
    fingerprint: str,
    vocabulary_fingerprint: str,
    log: Callable[[str], object],
) -> TokenStore:
    """Writes a store, in parts and one document in memory at a time, and moves it into place whole."""
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    head = {
        "version": STORE_VERSION,
        "fingerprint": fingerprint,
        "vocabulary_fingerprint": vocabulary_fingerprint,
        "vocab_size": vocab_size,
        "dtype": dtype.str,
    }
    scratch = folder.with_name(f".{folder.name}.building")
    refuse_link(scratch)
    scratch.mkdir(exist_ok=True)
    journal = Journal(scratch, head, dtype)
    if journal.documents:
        log(f"Going on after {journal.documents:,} documents that an earlier start had tokenised.")
    try:
        parts = [write_split(journal, name, documents) for name, documents in splits.items()]
    except BaseException as error:
        # Text that is at fault will be another text once it is mended.
        if isinstance(error, UserError) or not journal.documents:
            shutil.rmtree(scratch, ignore_errors=True)
        raise
    names = sorted(name for part in parts for name in part.sums)
    manifest = {
        **head,
        "splits": {
            part.split: {"documents": part.documents, "tokens": part.tokens, "text_bytes": part.text_bytes}
            for part in parts
        },
        "files": {name: _file_entry(scratch / name) for name in names},
    }
    with replacing(scratch / "manifest.json") as file:
        json.dump({**manifest, "checksum": _checksum(manifest)}, file, indent=1)
    _move_into_place(scratch, folder)
    return TokenStore.open(folder, fingerprint, vocabulary_fingerprint)


def _is_manifest(found: Mapping[str, Any]) -> bool:
    """True where every entry is of its type, and each split's files are as long as its counts say."""
    try:
        size, names = np.dtype(DTYPES[DTYPES.index(found["dtype"])]).itemsize, found["files"]
        for entry in names.values():
            if not isinstance(entry["sha256"], str) or type(entry["bytes"]) is not int:
                return False
        for split, counts in found["splits"].items():
            if type(counts["text_bytes"]) is not int:
                return False
            wanted = {"tokens": size * counts["tokens"], "offsets": 8 * (counts["documents"] + 1)}
            if f"{split}.targets" in names:
                wanted["targets"] = 8 * counts["documents"]
            if any(names[f"{split}.{suffix}"]["bytes"] != length for suffix, length in wanted.items()):
                return False
        return True
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _checksum(manifest: Mapping[str, object]) -> str:
    entries = {name: entry for name, entry in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _file_entry(path: Path) -> dict[str, object]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _move_into_place(scratch: Path, folder: Path) -> None:
    """Renames the finished folder, by whoever holds the lock; one that is already there is damaged."""
    if folder.exists():
        # Moved aside rather than deleted in place: another process may be reading it.
        aside = folder.with_name(f".{folder.name}.damaged.{uuid.uuid4().hex}")
        os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)
    os.rename(scratch, folder)
    (folder / JOURNAL).unlink(missing_ok=True)
    parent = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
