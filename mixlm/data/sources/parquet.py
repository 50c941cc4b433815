"""Parquet files: a document in each row of one column."""

from dataclasses import dataclass
from typing import Any, ClassVar

from mixlm.data.sources.columns import ROWS, ColumnFiles


@dataclass(frozen=True)
class Parquet(ColumnFiles):
    """A Parquet file, or a folder of them, read by row groups; of a file's pages the checksums are compared."""

    endings: ClassVar[tuple[str, ...]] = (".parquet",)
    magic: ClassVar[bytes] = b"PAR1"

    def batches(self, file: Any, pyarrow: Any) -> tuple[Any, Any]:
        """The schema, and the batches of a column."""
        from pyarrow import parquet

        del pyarrow
        table = parquet.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        return table.schema_arrow, lambda column: table.iter_batches(ROWS, columns=[column], use_threads=False)
