"""The protocol of a text source, and what all sources share: splits, whitespace, digests."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

from mixlm.data.store.fingerprint_cache import sha256_of
from mixlm.errors import UserError, nearest

SPLITS = ("train", "validation")
# To be raised whenever the same files would give other documents, so that a stale store is not used.
SOURCE_VERSION = 1
BOUND = "MAX_DOCUMENT_BYTES allows"  # the end of a sentence about what is too long


@runtime_checkable
class Source(Protocol):
    """Documents of raw text, split once and for all into train and validation."""

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split, always in the same order; never an empty one."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over the bytes of the text and over how it is split."""
        ...


@runtime_checkable
class Noted(Source, Protocol):
    """A source that has something to say before a run."""

    def notes(self) -> list[str]:
        """Lines, such as what a folder holds and is not read."""
        ...


def normalize_whitespace(text: str) -> str:
    """Returns text with LF line breaks, single spaces, no space at the ends of lines, at most one empty line."""
    text = re.sub(r"\r\n?", "\n", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def check_bound(limit: int) -> None:
    """Raises UserError for a MAX_DOCUMENT_BYTES that is not above 0."""
    if limit < 1:
        raise UserError(f"MAX_DOCUMENT_BYTES is a whole number of bytes above 0, not {limit!r}.")


def check_document(document: str, where: str, limit: int) -> None:
    """Raises UserError that begins with `where` for a document beyond `limit` bytes, or with a NUL in it."""
    # A character has at most four bytes.
    if 4 * len(document) > limit and len(document.encode("utf-8", "replace")) > limit:
        raise UserError(f"{where} has more than {limit:,} bytes, which is more than {BOUND}.")
    if "\0" in document:
        raise UserError(f"{where} has a NUL, so it is no text.")


def plain_documents(texts: Iterable[str | None], of: str, limit: int) -> Iterator[str]:
    """The texts with their white space normalised, without those that are blank or None.

    Raises UserError that begins with `Document N of` and `of` for what `check_document` refuses.
    """
    for number, text in enumerate(texts, 1):
        if text is not None:
            check_document(text, f"Document {number} of {of}", limit)
            if text := normalize_whitespace(text):
                yield text


def check_two_splits(source: str, train: str, validation: str) -> None:
    """Raises UserError where both splits of a source are the same one."""
    if train == validation:
        raise UserError(f"{source} would both train and validate on {train!r}; name two splits.")


def check_known_split(what: str, split: str, known: Collection[str]) -> None:
    """Raises UserError where `what` has no split of that name."""
    if split not in known:
        splits = ", ".join(map(repr, known))
        raise UserError(f"{what} has no split {split!r}, only {splits}.{nearest(split, known)}")


def check_split(split: str) -> str:
    """Returns the split; raises UserError for one that is neither train nor validation."""
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r}, only 'train' and 'validation'.{nearest(split, SPLITS)}")
    return split


def digest_files(files: list[Path], rule: list[object]) -> str:
    """SHA-256 over the files' bytes and the rule that cuts and splits them."""
    try:
        return digest(SOURCE_VERSION, rule, sha256_of(files))
    except OSError as error:
        raise UserError(f"The text file {str(error.filename)!r} cannot be read: {error.strerror}.") from None


def digest(*parts: object) -> str:
    """SHA-256 over plain values and dataclasses, as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=asdict).encode()).hexdigest()
