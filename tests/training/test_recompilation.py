"""Another cell of a sweep compiles nothing anew: ratios, losses, rates, stages and seeds are arguments of what runs."""

from pathlib import Path

import jax
import pytest

from mixlm.data.dataset import Dataset
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.losses.token_losses import Focal, MiLe
from mixlm.models.heads import TokenHead
from mixlm.models.llama import Llama
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.objectives.causal import Causal
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.objectives.masked_lm import MaskedLM
from mixlm.objectives.mixing import PerExample
from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.objectives.unrolled_diffusion import UnrolledDiffusion
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.perf import compilation_cache
from mixlm.recipe import Recipe
from mixlm.reports.metrics import read
from mixlm.schedules import WSD, Constant, Cosine, Linear
from mixlm.tokens import TokenIds
from mixlm.training import run as loop

DEVICES = jax.devices()
TOKENS = TokenIds(vocab_size=112, mask=4, bos=3, sentinels=20)
SIZE = {"vocab_size": 112, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 32}


@pytest.fixture(autouse=True)
def every_executable_is_kept(monkeypatch):
    """One device, and a cache that keeps what compiles in no time too."""
    monkeypatch.setattr(compilation_cache, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])


def recipe(corpus, folder, **changes) -> Recipe:
    settings = {
        "name": "small",
        "dataset": Dataset(TextTask("text", TextFiles(str(corpus)), TrainedSentencePiece(112, sentinels=20))),
        "tokens": TOKENS,
        "train_steps": 3,
        "batch_size": 4,
        "lengths": {"inputs": 32, "targets": 8},
        "model_dir": str(folder),
        "log_period": 1,
        "eval_batches": 1,
    }
    return Recipe(**(settings | changes))


def decoders(alpha, weight, gamma, rate, tau, decay, clip, mask_rate):
    """A mix of rows under a weighted loss, then unrolled diffusion whose attention opens from tau on."""
    tokens_count = MiLe(gamma)
    mix = PerExample(
        (Causal(TOKENS, loss=tokens_count), MaskedLM(TOKENS, mask_rate, loss=tokens_count)), (alpha,), (weight, 1.0)
    )
    opening = Linear(0.0, 1.0, steps=2, begin=tau)
    return {
        "networks": {"model": Llama(**SIZE, num_layers=1)},
        "curriculum": Curriculum((Stage(0, mix), Stage(tau, UnrolledDiffusion(TOKENS, bidirectional=opening)))),
        "optimizer": Optimizer(AdamW(weight_decay=decay), Cosine(rate, warmup_steps=tau), clip),
        "validation": (Causal(TOKENS),),
    }


def encoder_decoders(lambda1, lambda2, gamma, rate, tau):
    """SpacTor's two stages."""
    spans = SpanCorruption(TOKENS, loss=Focal(gamma))
    spactor = SpacTor(spans, lambda1=lambda1, lambda2=lambda2, generator_loss=Focal(2 * gamma))
    return {
        "networks": {
            "model": EncoderDecoder(**SIZE, num_encoder_layers=1, num_decoder_layers=1),
            "generator": DecoderOnly(**SIZE, num_layers=1),
            "rtd_head": TokenHead(16),
        },
        "curriculum": Curriculum((Stage(0, spactor), Stage(tau, spans))),
        "optimizer": Optimizer(Adafactor(), WSD(rate, decay_fraction=rate)),
        "validation": (spans,),
    }


def compiled_by(made: Recipe) -> tuple[int, list[str]]:
    """Trains in what is like a new process; how often an executable was found, and the names of those that were not."""
    folder, found = made.dataset.cache / "executables", []
    before = names_in(folder)

    def hear(event: str, **_) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            found.append(event)

    jax.clear_caches()
    jax.monitoring.register_event_listener(hear)
    try:
        loop.train(made, say=lambda _: None)
    finally:
        jax.monitoring.unregister_event_listener(hear)
    return len(found), sorted(names_in(folder) - before)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*-cache")}


SWEEPS = {
    "decoder": (decoders, (0.5, 2.0, 1.0, 0.01, 1, 0.1, 1.0, 0.15), (0.25, 1.0, 0.5, 0.02, 2, 0.0, 0.5, 0.3)),
    "encoder-decoder": (encoder_decoders, (10.0, 10.0, 1.0, 0.02, 1), (50.0, 20.0, 2.0, 0.01, 2)),
}


@pytest.mark.parametrize(
    "sweep", [pytest.param(n, marks=pytest.mark.slow) if n == "encoder-decoder" else n for n in SWEEPS]
)
def test_another_cell_of_a_sweep_compiles_nothing(sweep, corpus, tmp_path):
    build, here, there = SWEEPS[sweep]
    first = recipe(corpus, tmp_path / "first", **build(*here))
    second = recipe(corpus, tmp_path / "second", seed=5, **build(*there))
    _, made = compiled_by(first)
    assert len(made) > 2
    hits, missed = compiled_by(second)
    assert hits > 2 and missed == []
    losses = [[line["loss"] for line in read(run.folder)] for run in (first, second)]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_another_shape_is_seen_to_compile(corpus, tmp_path):
    settings = decoders(0.5, 2.0, 1.0, 0.01, 0, 0.1, 1.0, 0.15) | {"optimizer": Optimizer(AdamW(), Constant(0.1))}
    compiled_by(recipe(corpus, tmp_path / "first", **settings))
    _, missed = compiled_by(recipe(corpus, tmp_path / "second", **settings, batch_size=8))
    assert any(name.startswith("jit_run") for name in missed)
