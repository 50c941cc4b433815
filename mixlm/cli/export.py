"""Writes a run for other libraries: mixlm export RUN --to=hf OUT, where RUN may be RUN@STEP, @best or @chck_1M.

--to=hf writes the folder OUT for transformers: weights (safetensors), config.json, tokenizer and a model card. It needs
the extra: pip install 'mixlm[hf]'. --to=t5x writes OUT/checkpoint_STEP, as T5X's trainer does, and the gin file
of T5X's network.
"""

import argparse
import sys
from collections.abc import Sequence

from mixlm.cli.arguments import command_parser, parsed
from mixlm.errors import UserError, nearest

_FORMATS = ("hf", "t5x")


def main() -> None:
    """Exports the run that the command line names."""
    given = parse(sys.argv[1:])
    from mixlm.api.run import Run

    if given.to == "t5x":
        from mixlm.interop.t5x.export import export as export_to_t5x

        export_to_t5x(Run(given.run), given.out, given.network)
        return
    from mixlm.interop.hf.export import export

    export(Run(given.run), given.out, given.network)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The run, the folder and the options; UserError for what there is not."""
    parser = command_parser(__doc__)
    parser.add_argument("run", nargs="?", metavar="RUN", help="the run's folder")
    parser.add_argument("out", nargs="?", metavar="OUT", help="a new folder")
    parser.add_argument("--to", metavar="FORMAT", help=f"the format: {', '.join(_FORMATS)}")
    parser.add_argument("--network", default="model", metavar="NAME", help="of several networks, one; default: model")
    given = parsed(parser, argv, "An export is of one run into one folder")
    if given.run is None or given.out is None or given.to is None:
        raise UserError("An export needs a run, a format and a new folder: mixlm export RUN --to=hf OUT.")
    if given.to not in _FORMATS:
        raise UserError(f"There is no format {given.to!r}, only {', '.join(_FORMATS)}.{nearest(given.to, _FORMATS)}")
    return given
