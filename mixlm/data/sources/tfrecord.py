"""TFRecord files of tf.train.Example, with a document in one feature of each."""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mixlm.data.quiet_tensorflow import import_tensorflow
from mixlm.data.sources.base import BOUND, check_document
from mixlm.data.sources.files import RecordFiles
from mixlm.errors import UserError, nearest
from mixlm.files import open_regular

HEAD, TAIL = 12, 4  # before a record its length (8 bytes) and the length's checksum, behind it its own checksum


@dataclass(frozen=True)
class TFRecords(RecordFiles):
    """A file, or a folder of files, of one tf.train.Example for each document; reading imports TensorFlow.

    The document is the Example's `feature`, in UTF-8. Raises UserError that names the file, and the record where one
    can be told, for what is damaged or is no such Example.
    """

    endings: ClassVar[tuple[str, ...]] = (".tfrecord", ".tfrecords", ".tfrecord.gz", ".tfrecords.gz")

    def read(self, path: Path) -> Iterator[str]:
        """The documents of one file, record by record."""
        for number, record in enumerate(_records(path, self.max_document_bytes), 1):
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
            document = values[0].decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{where} is not UTF-8: byte {error.start} of its {self.feature!r}.") from None
        check_document(document, where, self.max_document_bytes)
        return document


def _records(path: Path, limit: int) -> Iterator[bytes]:
    _check_frames(path, limit)
    tf = import_tensorflow()
    packed = "GZIP" if _is_packed(path) else ""
    try:
        yield from tf.data.TFRecordDataset(str(path), packed).as_numpy_iterator()
    except tf.errors.OpError as error:
        reason = re.sub(r"^{{.*?}} | \[Op:.*", "", error.message, flags=re.DOTALL).rstrip(".")
        raise UserError(f"The TFRecord file {str(path)!r} is damaged: {reason}.") from None


def _check_frames(path: Path, limit: int) -> None:
    """Raises UserError for a cut file, and for a record of more than `limit` bytes, which would be read at once.

    TensorFlow takes a file that breaks off within a record's length, or within its packing, for one that ends.
    """
    number = 0
    try:
        with open_regular(path) as opened:
            file = gzip.GzipFile(fileobj=opened) if _is_packed(path) else opened
            while head := file.read(HEAD):
                number += 1
                length, checksum = int.from_bytes(head[:8], "little"), int.from_bytes(head[8:], "little")
                if len(head) < HEAD or masked_crc32c(head[:8]) != checksum:
                    raise _Damaged(f"the length of record {number} is corrupted")
                if length > limit:
                    raise UserError(
                        f"Record {number} of {str(path)!r} has {length:,} bytes, which is more than {BOUND}."
                    )
                if len(file.read(length + TAIL)) < length + TAIL:
                    raise _Damaged(f"it ends within record {number}")
    except _Damaged as error:
        raise UserError(f"The TFRecord file {str(path)!r} is damaged: {error}.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"The TFRecord file {str(path)!r} is no whole gzip file: {error}.") from None


class _Damaged(Exception):
    """The first fault in a file's frames."""


def masked_crc32c(content: bytes) -> int:
    """The checksum of a record's length: CRC-32C, rotated and shifted as TFRecord files have it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)  # the reversed polynomial of Castagnoli
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"
