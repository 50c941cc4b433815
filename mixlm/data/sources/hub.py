"""Documents of a data set by its name on the Hugging Face hub, or of a folder laid out as one, through `datasets`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixlm.data.sources.base import (
    SOURCE_VERSION,
    check_bound,
    check_known_split,
    check_split,
    check_two_splits,
    digest,
    plain_documents,
)
from mixlm.data.sources.columns import FEATURE, ROWS, chosen, import_pyarrow
from mixlm.data.sources.holdout import by_hash
from mixlm.data.store.fingerprint_cache import sha256_of
from mixlm.errors import NotHere, UserError
from mixlm.files import MAX_LINE_BYTES


@dataclass(frozen=True)
class HubDataset:
    """A data set that `datasets.load_dataset(name, subset, revision=revision)` gives, downloaded once into its cache.

    The document is the column `feature` of each row, as of Parquet files. Where the data set has no `validation_split`,
    about `validation_fraction` of the documents are held out by a hash of their text; its other splits are never read.
    The fingerprint covers what was downloaded. Raises UserError where the library is not installed, and for a data set,
    a split or a column that is not there.
    """

    name: str
    subset: str | None = None
    revision: str | None = field(default=None, repr=False)  # the fingerprint covers the content
    feature: str = FEATURE
    train_split: str = "train"
    validation_split: str = "validation"
    validation_fraction: float = 0.05
    max_document_bytes: int = field(default=MAX_LINE_BYTES, repr=False)  # refuses text, and changes none

    def __post_init__(self) -> None:
        check_bound(self.max_document_bytes)
        if not self.name:
            raise NotHere("No data set was named: say --gin.HUB_NAME=NAME.")
        check_two_splits("HubDataset", self.train_split, self.validation_split)
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"HubDataset.validation_fraction is between 0 and 1, not {self.validation_fraction}.")

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split in the order of its rows."""
        wanted, splits = check_split(split), self._splits()
        if self.validation_split not in splits:

            def train() -> Iterator[str]:
                return self._documents(splits[self.train_split])

            return by_hash(train, self.validation_fraction, split, self.name)
        return self._documents(splits[self.train_split if wanted == "train" else self.validation_split])

    def fingerprint(self) -> str:
        """SHA-256 over the files of the cache that hold the splits, the column and the rule of the split."""
        splits = self._splits()
        read = [name for name in (self.train_split, self.validation_split) if name in splits]
        files = [[Path(each["filename"]) for each in splits[name].cache_files] for name in read]
        rule = [self.feature, *read, *([self.validation_fraction] if len(read) < 2 else [])]
        return digest(SOURCE_VERSION, ["hub", *rule], [sha256_of(each) for each in files])

    def _documents(self, rows: Any) -> Iterator[str]:
        column = chosen(rows.features.arrow_schema, self.feature, f"The data set {self.name!r}", import_pyarrow())
        tables = rows.select_columns([column]).with_format("arrow").iter(ROWS)
        texts = (each.as_py() for table in tables for each in table.column(column))
        return plain_documents(texts, repr(self.name), self.max_document_bytes)

    def _splits(self) -> Any:
        datasets = import_datasets()
        try:
            found = datasets.load_dataset(self.name, self.subset, revision=self.revision)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise NotHere(f"The data set {self.name!r} cannot be had: {reason}.") from None
        check_known_split(repr(self.name), self.train_split, found)
        return found


def import_datasets() -> Any:
    """The library `datasets`; UserError where it is not installed."""
    try:
        import datasets
    except ImportError:
        raise UserError("A data set by name needs the library datasets: pip install 'mixlm[data]'.") from None
    return datasets
