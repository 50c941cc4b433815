"""Scores a run on BabyLM's zero-shot suites: mixlm babylm --run=RUN --data=evaluation_data.

The newest checkpoint is scored on full_eval, and each that KEEP_AT_WORDS kept on fast_eval and for the age of
acquisition. Where --data is one of the two, or RUN is RUN@NAME or RUN@STEP, so is that alone. What is answered lies in
--output in the layout that BabyLM's collation reads, a folder for each checkpoint and mode of the network.
"""

import argparse
import sys
from collections.abc import Sequence

from mixlm.cli.arguments import command_parser, parsed
from mixlm.errors import UserError
from mixlm.paths import local


def main() -> None:
    """Scores the suites that are in the folder of data, and prints a line for each mode and suite."""
    given = parse(sys.argv[1:])
    from mixlm.api.run import Run
    from mixlm.interop.babylm.rounds import rounds_of
    from mixlm.interop.babylm.run import MAIN, evaluate, judges
    from mixlm.interop.loaded import Loaded

    split = None if given.suites is None else given.suites.split(",")
    rounds = rounds_of(given.run, local(given.data, "--data"), split, given.revision)
    for each in rounds:
        loaded = Loaded(Run(each.run), given.network, given.batch_tokens)
        for judge in judges(loaded, given.modes, local(given.output, "--output"), each.revision):
            print(f"{judge.name} of {each.revision}", flush=True)
            for suite, figure in evaluate(each.plan, judge, each.revision):
                print(f"  {suite:<28}{'surprisals' if figure is None else f'{figure:6.2f}'}", flush=True)
            print(f"  in {judge.folder}", flush=True)
    if all(each.revision == MAIN for each in rounds) and any(each.plan.acquisition for each in rounds):
        print("aoa is scored for named checkpoints: train with KEEP_AT_WORDS, or give --revision=chck_1M.", flush=True)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The flags; UserError for one that is unknown, and without a run or data."""
    parser = command_parser(__doc__)
    add = parser.add_argument
    add("--run", metavar="RUN", help="a run's folder, with @chck_1M, @STEP or @best for one of its checkpoints")
    add("--data", metavar="FOLDER", help="BabyLM's evaluation_data, or its full_eval or fast_eval")
    add("--modes", metavar="A,B", help="scoring modes; default: all that the network has")
    add("--suites", metavar="A,B", help="such as blimp,ewok,reading,aoa; default: all that the folder has")
    add("--revision", metavar="NAME", help="the checkpoint's name, such as chck_10M; default: its own, else main")
    add("--output", default="results", metavar="FOLDER", help="default: results")
    add("--network", default="model", metavar="NAME", help="default: model")
    add("--batch_tokens", type=int, default=4096, metavar="N", help="padding included; default: 4096")
    given = parsed(parser, argv, "BabyLM's suites are scored by flags alone")
    for name in ("run", "data"):
        if getattr(given, name) is None:
            raise UserError(f"--{name} is missing: mixlm babylm --run=RUN --data=evaluation_data.")
    if given.batch_tokens < 1:
        raise UserError(f"--batch_tokens is at least 1, not {given.batch_tokens}.")
    return given
