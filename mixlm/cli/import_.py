"""Makes a run of a checkpoint of transformers: mixlm import hf:FOLDER OUT.

FOLDER holds config.json, safetensors and a tokenizer of a T5, a Llama, or what mixlm export --to=hf wrote. OUT is a run
at step 0, and OUT/network.gin gives its network and vocabulary to any recipe before it.
"""

import argparse
import sys
from collections.abc import Sequence

from mixlm.cli.arguments import command_parser, parsed
from mixlm.errors import UserError

_FORMATS = ("hf",)


def main() -> None:
    """Imports the folder that the command line names."""
    given = parse(sys.argv[1:])
    from mixlm.interop.hf.imports import import_folder

    import_folder(given.source.partition(":")[2], given.out, given.sentinels)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The source, the folder and the options; UserError for what there is not."""
    parser = command_parser(__doc__)
    parser.add_argument("source", nargs="?", metavar="hf:FOLDER", help="the checkpoint's folder, after its format")
    parser.add_argument("out", nargs="?", metavar="OUT", help="a new folder")
    parser.add_argument(
        "--sentinels", type=int, default=0, metavar="N", help="appended where the tokenizer has none; default: 0"
    )
    given = parsed(parser, argv, "An import is of one checkpoint into one folder")
    if given.source is None or given.out is None:
        raise UserError("An import needs a checkpoint and a new folder: mixlm import hf:FOLDER OUT.")
    form = given.source.partition(":")[0] if ":" in given.source else ""
    if form not in _FORMATS:
        raise UserError(f"{given.source!r} does not say its format: write hf:FOLDER, for a folder of transformers.")
    return given
