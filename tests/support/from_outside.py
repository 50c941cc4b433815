"""Extensions from outside of the package: Python and gin files in a temporary folder, and commands that use them.

`run` writes the files and runs the commands one after the other in one process, with the folder on PYTHONPATH and
nothing else different from what a user has. A recipe of a test is short: `include 'tiny.gin'`, then what it adds.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# A few steps on a few rows of plain text, for any recipe before it.
SMALL = """
from __gin__ import dynamic_registration

from mixlm import tokens
from mixlm.data import vocabulary

include 'data/text.gin'

TRAIN_STEPS = 4
BATCH_SIZE = 8
LOG_PERIOD = 1
EVAL_BATCHES = 1
WARMUP_STEPS = 0
LEARNING_RATE = 0.01
VOCAB_SIZE = 112
TASK_FEATURE_LENGTHS = {"targets": 16}
tokens.TokenIds.sentinels = 20
vocabulary.TrainedSentencePiece.sentinels = 20
"""
# A causal decoder of one layer: one stage, OBJECTIVE, and one network, NETWORKS["model"].
TINY = """
from __gin__ import dynamic_registration

from mixlm.models import t5_decoder
from mixlm.objectives import causal

include 'base.gin'
include 'objectives/one_stage.gin'
include 'optim/adamw_cosine.gin'
include 'small.gin'

RECIPE = "tiny"
NETWORKS = {"model": @t5_decoder.DecoderOnly()}
t5_decoder.DecoderOnly:
  vocab_size = %VOCAB_SIZE
  emb_dim = 16
  num_heads = 2
  head_dim = 8
  mlp_dim = 32
  num_layers = 1
OBJECTIVE = @causal.Causal()
causal.Causal.tokens = %TOKENS
"""
_MARK = "=== command ==="


def run(folder: Path, corpus: Path, files: Mapping[str, str], *commands: Sequence[str]) -> list[list[str]]:
    """The lines on stdout of each command, such as ("train", "--gin_file=mine.gin"); the run is in folder/"run".

    Fails with what is on stderr where a command does. One device and XLA's own defaults.
    """
    for name, content in {"small.gin": SMALL, "tiny.gin": TINY, **files}.items():
        (folder / name).write_text(content, encoding="utf-8")
    common = [f"--gin_search_paths={folder}", f"--gin.TEXT={corpus}", f"--gin.MODEL_DIR={folder / 'run'}"]
    asked = [[name, *arguments, *common] for name, *arguments in commands]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(folder)
    command = [sys.executable, __file__, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [part.strip().splitlines() for part in done.stdout.split(_MARK)[1:]]


def records(folder: Path) -> list[dict[str, float]]:
    """What the run logged, a record for each line of its metrics."""
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def main() -> None:
    """Runs the commands of the command line's JSON."""
    from importlib import import_module

    from mixlm.gin_config.flags import run_or_explain_error

    for name, *arguments in json.loads(sys.argv[1]):
        print(_MARK, flush=True)
        sys.argv = [f"mixlm {name}", *arguments]
        run_or_explain_error(import_module(f"mixlm.cli.{name}").main)


if __name__ == "__main__":
    main()
