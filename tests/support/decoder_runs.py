"""A small run of a causal decoder."""

from mixlm.data.dataset import Dataset
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.objectives.causal import Causal
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.recipe import Recipe
from mixlm.schedules import Constant
from mixlm.tokens import TokenIds
from support.runs import SIZE

TOKENS = TokenIds(vocab_size=112, mask=4, bos=3, sentinels=20)
CAUSAL, MASKED = Causal(TOKENS), MaskedLM(TOKENS)


def text(path: str, unique_tokens: int | None = None) -> Dataset:
    return Dataset(TextTask("text", TextFiles(path), TrainedSentencePiece(112, sentinels=20)), unique_tokens)


def recipe(corpus, folder, **changes) -> Recipe:
    settings = {
        "name": "small",
        "networks": {"model": DecoderOnly(**SIZE, num_layers=1)},
        "curriculum": Curriculum((Stage(0, CAUSAL),)),
        "dataset": text(str(corpus)),
        "tokens": TOKENS,
        "optimizer": Optimizer(AdamW(), Constant(0.01)),
        "train_steps": 3,
        "batch_size": 8,
        "lengths": {"targets": 16},
        "model_dir": str(folder),
        "log_period": 1,
        "eval_batches": 2,
        "checkpoint_period": 3,
    }
    return Recipe(**(settings | changes))
