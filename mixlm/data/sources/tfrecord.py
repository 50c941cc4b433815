"""TFRecord files of tf.train.Example, with a document in one feature of each."""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mixlm.data.quiet_tensorflow import import_tensorflow
from mixlm.data.sources.files import RecordFiles
from mixlm.errors import UserError, nearest

FRAME = 16  # a record's length (8 bytes), and the checksums of the length and of the record (4 each)


@dataclass(frozen=True)
class TFRecords(RecordFiles):
    """A file, or a folder of files, of one tf.train.Example for each document; reading imports TensorFlow.

    The document is the Example's `feature`, in UTF-8. Raises UserError that names the file, and the record where one
    can be told, for what is damaged or is no such Example.
    """

    endings: ClassVar[tuple[str, ...]] = (".tfrecord", ".tfrecords", ".tfrecord.gz", ".tfrecords.gz")

    def read(self, path: Path) -> Iterator[str]:
        """The documents of one file, record by record."""
        for number, record in enumerate(_records(path), 1):
            yield self._document(record, f"Record {number} of {str(path)!r}")

    def _document(self, record: bytes, where: str) -> str:
        import tensorflow as tf
        from google.protobuf.message import DecodeError

        try:
            features = tf.train.Example.FromString(record).features.feature
        except DecodeError:
            raise UserError(f"{where} is no tf.train.Example.") from None
        if self.feature not in features:
            keys = ", ".join(map(repr, sorted(features))) or "nothing"
            raise UserError(f"{where} has no {self.feature!r}, only {keys}.{nearest(self.feature, features)}")
        values = features[self.feature].bytes_list.value
        if len(values) != 1:
            kind = features[self.feature].WhichOneof("kind") or "nothing"
            raise UserError(f"{self.feature!r} in record {where[7:]} is no text but {kind} with {len(values)} texts.")
        try:
            return values[0].decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{where} is not UTF-8: byte {error.start} of its {self.feature!r}.") from None


def _records(path: Path) -> Iterator[bytes]:
    tf = import_tensorflow()

    packed, read = path.suffix == ".gz", 0
    try:
        for record in tf.data.TFRecordDataset(str(path), "GZIP" if packed else "").as_numpy_iterator():
            read += len(record) + FRAME
            yield record
    except tf.errors.OpError as error:
        reason = re.sub(r"^{{.*?}} | \[Op:.*", "", error.message, flags=re.DOTALL).rstrip(".")
        raise UserError(f"The TFRecord file {str(path)!r} is damaged: {reason}.") from None
    # TensorFlow takes a file that breaks off within a record's length, or within its packing, for one that ends.
    if read != (size := _size(path, packed)):
        raise UserError(f"The TFRecord file {str(path)!r} is damaged: it ends after {read:,} of {size:,} bytes.")


def _size(path: Path, packed: bool) -> int:
    if not packed:
        return path.stat().st_size
    try:
        with gzip.open(path, "rb") as file:
            return sum(len(block) for block in iter(lambda: file.read(2**20), b""))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"The TFRecord file {str(path)!r} is no whole gzip file: {error}.") from None
