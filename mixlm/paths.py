"""Names of files that were read from a file: they lead to no place outside of the folder that they are told of."""

from pathlib import Path, PurePosixPath

from mixlm.errors import UserError


def within(folder: Path, name: object) -> Path:
    """Returns `folder / name`; raises UserError where that is outside of the folder, or reached through a link."""
    place = PurePosixPath(name) if isinstance(name, str) and "\0" not in name else PurePosixPath()
    if not place.parts or place.is_absolute() or ".." in place.parts:
        raise UserError(f"{folder} speaks of a file {name!r}, which is not in it, so it is not read.")
    path = folder
    for part in place.parts:
        path = path / part
        refuse_link(path)
    return path


def refuse_link(path: Path) -> None:
    """Raises UserError where `path` is a symbolic link, which may lead anywhere."""
    if path.is_symlink():
        raise UserError(f"{path} is a link, and links are followed in no run, store or checkpoint: put the file there.")
