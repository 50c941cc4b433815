"""Arrow files, and the folders that `datasets` saves (`save_to_disk`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mixlm.data.sources.columns import ROWS, ColumnFiles
from mixlm.errors import UserError
from mixlm.files import read_json

END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # of a stream of record batches; without it some may be missing
FILE = b"ARROW1"


@dataclass(frozen=True)
class Arrow(ColumnFiles):
    """A file or folder of Arrow record batches, such as a data set that `datasets` has saved; needs pyarrow alone.

    Of a folder with a `state.json` all files that it lists must be there.
    """

    endings: ClassVar[tuple[str, ...]] = (".arrow",)
    magic: ClassVar[bytes] = b"\xff\xff\xff\xff"

    def files(self) -> list[Path]:
        """The file itself, or a folder's .arrow files; UserError where one that the data set lists is missing."""
        found = super().files()
        for folder in {path.parent for path in found}:
            state = folder / "state.json"
            if state.is_file():
                listed: list[Any] = read_json(state).get("_data_files") or []
                names = [each.get("filename") for each in listed if isinstance(each, dict)]
                if missing := sorted(str(name) for name in names if not (folder / str(name)).is_file()):
                    raise UserError(f"The data set {str(folder)!r} lacks {missing[0]!r}, which its state.json lists.")
        return found

    def batches(self, file: Any, pyarrow: Any) -> tuple[Any, Any]:
        """The schema, and the batches of a column, from the file format or the stream format."""
        from pyarrow import ipc

        if file.peek(len(FILE)).startswith(FILE):
            table = ipc.open_file(file)
            return table.schema, lambda _: _small(map(table.get_batch, range(table.num_record_batches)))
        size = file.seek(0, 2)
        file.seek(max(size - len(END), 0))
        if file.read() != END:
            raise pyarrow.ArrowInvalid("it ends before the mark that ends a stream")
        file.seek(0)
        stream = ipc.open_stream(file)
        return stream.schema, lambda _: _small(stream)


def _small(batches: Any) -> Iterator[Any]:
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            yield batch.slice(start, ROWS)
