"""Documents of a data set that TensorFlow Datasets has prepared on this machine's disk."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mixlm import files
from mixlm.data.quiet_tensorflow import import_tensorflow
from mixlm.data.sources.base import (
    SOURCE_VERSION,
    check_bound,
    check_known_split,
    check_split,
    check_two_splits,
    digest,
    plain_documents,
)
from mixlm.errors import NotHere, UserError, nearest
from mixlm.files import MAX_LINE_BYTES
from mixlm.paths import is_url, local

VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Tfds:
    """A data set of TensorFlow Datasets that has been prepared on the disk, such as `c4/en:3.0.1`.

    `name` is the builder's, with its configuration and version where it has several (the highest version, without one);
    `data_dir` defaults to `$TFDS_DATA_DIR` or `~/tensorflow_datasets`. Splits may be parts, such as `train[:99%]`.
    Nothing is downloaded. Raises UserError for a data set that is not there, and for an unknown split or feature.
    """

    name: str
    feature: str = "text"
    train_split: str = "train"
    validation_split: str = "validation"
    data_dir: str | None = field(default=None, repr=False, compare=False)  # where, not what
    max_document_bytes: int = field(default=MAX_LINE_BYTES, repr=False)  # refuses text, and changes none

    def __post_init__(self) -> None:
        check_bound(self.max_document_bytes)
        if self.data_dir and not is_url(self.data_dir):
            local(self.data_dir, "TFDS_DATA_DIR")
        if not re.fullmatch(r"\w+(/[\w.\-]+)?(:\d+\.\d+\.\d+)?", self.name):
            raise UserError(f"The data set's name {self.name!r} is not like 'c4', 'c4/en' or 'c4/en:3.0.1'.")
        check_two_splits("Tfds", self.train_split, self.validation_split)

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split in the order of the files; imports TensorFlow."""
        examples = self.examples(split, self.feature)
        texts = (example[self.feature].decode("utf-8", "replace") for example in examples)
        return plain_documents(texts, f"{self.name}'s {self._split(split)!r}", self.max_document_bytes)

    def examples(self, split: str, feature: str | None = None) -> Iterator[dict[str, Any]]:
        """The examples of a split in the order of the files, whole or with one feature alone; imports TensorFlow."""
        folder, _ = self._prepared()
        import_tensorflow()
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(str(folder))
        features = builder.info.features
        if feature is not None and feature not in features:
            raise UserError(f"{self.name} has no feature {feature!r}.{nearest(feature, features)}")
        # One file after the other: with several at once the order would depend on how many.
        examples = builder.as_dataset(
            split=self._split(split),
            shuffle_files=False,
            decoders=None if feature is None else tfds.decode.PartialDecoding({feature: True}),
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )
        yield from examples.as_numpy_iterator()

    def fingerprint(self) -> str:
        """SHA-256 over builder, version, splits and the sizes of their files; imports no TensorFlow."""
        folder, splits = self._prepared()
        sizes = [
            [split, splits[_base(split)].get("shardLengths"), splits[_base(split)].get("numBytes")]
            for split in (self.train_split, self.validation_split)
        ]
        return digest(SOURCE_VERSION, ["tfds", self.name.split(":")[0], folder.name, self.feature], sizes)

    def _split(self, split: str) -> str:
        return self.train_split if check_split(split) == "train" else self.validation_split

    def _prepared(self) -> tuple[Any, dict[str, dict[str, Any]]]:
        """The data set's folder, and what its record says of each split."""
        # TFDS's own look-up would ask the network first; etils is what TFDS reads buckets with.
        from etils import epath

        given = self.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        home = epath.Path(given if is_url(given) else local(given, "TFDS_DATA_DIR"))
        name, _, version = self.name.partition(":")
        place = home / name
        versions = [entry.name for entry in place.iterdir()] if place.is_dir() else []
        found = [entry for entry in versions if VERSION.fullmatch(entry) and version in ("", entry)]
        # A copy that was broken off has no record yet.
        whole = [entry for entry in found if (place / entry / "dataset_info.json").exists()]
        if not whole:
            prepare = f"tfds.builder({self.name!r}, data_dir={str(home)!r}).download_and_prepare()"
            raise NotHere(f"The data set {self.name!r} is not prepared in {str(home)!r}: run {prepare} first.")
        folder = place / max(whole, key=lambda entry: [int(number) for number in entry.split(".")])
        splits = _splits(folder / "dataset_info.json")
        for split in (self.train_split, self.validation_split):
            check_known_split(self.name, _base(split), splits)
        return folder, splits


def _splits(record: Any) -> dict[str, dict[str, Any]]:
    """The entries of a data set's record for each split, by its name; UserError where it is damaged."""
    text = record.read_text() if is_url(record) else files.read_text(record)
    try:
        entries = files.parse_json(text, f"{str(record)!r}", dict)["splits"]
        return {str(entry["name"]): dict(entry) for entry in entries}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"The record {str(record)!r} is damaged.") from None


def _base(split: str) -> str:
    return split.partition("[")[0]
