"""A drawn picture: a notebook shows it, a script saves it."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixlm.analysis.style import png
from mixlm.files import replacing


@dataclass(frozen=True)
class Picture:
    """A PNG, and in `title` what it shows."""

    title: str
    png: bytes = field(repr=False)

    @classmethod
    def of(cls, title: str, figure: Any) -> "Picture":
        """The picture of a matplotlib Figure."""
        return cls(title, png(figure))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the PNG, whole or not at all, and returns its path."""
        place = Path(path)
        with replacing(place, "wb") as file:
            file.write(self.png)
        return place

    def _repr_png_(self) -> bytes:
        return self.png
