"""The protocol of a text source, and what all sources share: splits, whitespace, digests."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

from mixlm.data.store.fingerprint_cache import sha256_of
from mixlm.errors import UserError, nearest

SPLITS = ("train", "validation")
# To be raised whenever the same files would give other documents, so that a stale store is not used.
SOURCE_VERSION = 1


@runtime_checkable
class Source(Protocol):
    """Documents of raw text, split once and for all into train and validation."""

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split, always in the same order; never an empty one."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 over the bytes of the text and over how it is split."""
        ...


def normalize_whitespace(text: str) -> str:
    """Returns text with LF line breaks, single spaces, no space at the ends of lines, at most one empty line."""
    text = re.sub(r"\r\n?", "\n", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


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
