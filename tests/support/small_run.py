"""A run of a tiny causal model as a process of its own: python small_run.py '{"corpus": ..., "folder": ..., ...}'.

The tests of faults start it, as several processes too, and break what they like: `drivers` are lines of Python that run
before it does, with `loop` the module mixlm.training.run.
"""

import json
import sys
from pathlib import Path

from mixlm.gin_config.flags import run_or_explain_error


def recipe(corpus: str, folder: str, **changes):
    """A recipe of 12 steps of 256 tokens, of which 2082 are unique: the second epoch begins within step 9.

    Its first stage ends after step `tau`; with 0 there is only the second, which compiles sooner. With `bag` its
    network is one that no mesh cuts and that compiles in no time.
    """
    from mixlm.data.dataset import Dataset
    from mixlm.data.tasks import TextFiles, TextTask
    from mixlm.data.vocabulary import TrainedSentencePiece
    from mixlm.models.t5_decoder import DecoderOnly
    from mixlm.objectives.causal import Causal
    from mixlm.objectives.curriculum import Curriculum, Stage
    from mixlm.objectives.masked_diffusion import MaskedDiffusion
    from mixlm.optim.adafactor import Adafactor
    from mixlm.optim.optimizer import Optimizer
    from mixlm.parallel.mesh import Partitioning
    from mixlm.recipe import Recipe
    from mixlm.schedules import Constant
    from mixlm.tokens import TokenIds
    from support.networks import Bag

    tokens = TokenIds(vocab_size=112, mask=4, bos=3, sentinels=20)
    size = {"vocab_size": 112, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32, "num_layers": 1}
    tau, mesh = changes.pop("tau", 0), Partitioning(**changes.pop("mesh", {}))
    network = Bag(112, 16) if changes.pop("bag", False) else DecoderOnly(**size)
    first = (Stage(0, Causal(tokens)),) if tau else ()
    settings = {
        "name": "small",
        "networks": {"model": network},
        "curriculum": Curriculum((*first, Stage(tau, MaskedDiffusion(tokens)))),
        "dataset": Dataset(TextTask("text", TextFiles(corpus), TrainedSentencePiece(112, sentinels=20)), 3000),
        "tokens": tokens,
        "optimizer": Optimizer(Adafactor(), Constant(0.02)),
        "train_steps": 12,
        "batch_size": 8,
        "lengths": {"targets": 32},
        "partitioning": mesh,
        "model_dir": folder,
        "log_period": 1,
        "eval_period": 6,
        "eval_batches": 1,
        "checkpoint_period": 3,
    }
    return Recipe(**(settings | changes))


def main() -> None:
    asked = json.loads(sys.argv[1])
    where, driver = asked.pop("place", {}), asked.pop("driver", "")
    from mixlm.parallel.processes import join, process_spec
    from mixlm.training import run as loop

    def say(line: str) -> None:
        print(line, flush=True)

    exec(driver, {"loop": loop})
    made = recipe(**asked)
    with join(process_spec(**where)):
        loop.train(made, say)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    run_or_explain_error(main)
