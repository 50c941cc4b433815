"""The goldens of tests/golden on the device, in float32 at the highest precision and at the default one.

They are figures of the papers' and T5X's own code. The tests allow 1e-5 on a CPU; here it is `APART`, absolute, for
sums in another order.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from record import ROOT, Record

from mixlm.checkpoints.from_t5x import params_from_flat
from mixlm.checkpoints.from_torch import dual_params, llama_params, ltg_bert_params
from mixlm.example import Example
from mixlm.losses.token_losses import Focal, MiLe
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly

APART = 5e-5
GOLDEN = ROOT / "tests" / "golden"
TINY = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8}
LLAMA = Llama(**TINY, mlp_dim=56, num_layers=2, logits_via_embedding=True)
DUAL = Llama(
    **TINY, mlp_dim=56, num_layers=2, rope_theta=160000.0, epsilon=1e-7, projection_head=True, init_std=None,
    zero_init=True,
)  # fmt: skip
LTG_BERT = LTGBert(**TINY, mlp_dim=56, num_layers=2, num_buckets=8)
T5 = EncoderDecoder(**TINY, mlp_dim=64, num_encoder_layers=2, num_decoder_layers=2)
CAUSAL = DecoderOnly(**TINY, mlp_dim=64, num_layers=2, logits_via_embedding=True, bidirectional_bias=False)
Figures = Callable[[], list[tuple[Any, Any]]]  # pairs of what is found and what is wanted


def cases(record: Record, pool: Executor) -> Iterator[None]:
    """Runs the cases; yields after each."""
    made: dict[str, Figures] = {
        "llama": partial(_decoder, "llama", LLAMA, llama_params, 1),
        "dual_causal": partial(_decoder, "dual_causal", DUAL, dual_params, 1),
        "ltg_bert": partial(_decoder, "ltg_bert", LTG_BERT, ltg_bert_params, 0),
        "ltg_bert causal": partial(_decoder, "ltg_bert", LTG_BERT, ltg_bert_params, 1),
        "t5x_encdec_v11": partial(_t5x, "t5x_encdec_v11", T5),
        "t5x_decoder_causal": partial(_t5x, "t5x_decoder_causal", CAUSAL),
        "mile_focal": _losses,
    }
    wanted = {name: of for name, of in made.items() if record.wants(f"golden/{name}")}
    ahead = {(name, how): pool.submit(_apart, of, how) for name, of in wanted.items() for how in ("highest", None)}
    for name in wanted:
        record.case(f"golden/{name}", lambda n=name: _judged(*(ahead[n, how].result() for how in ("highest", None))))
        yield


def _judged(highest: float, default: float) -> dict[str, Any]:
    right = highest <= APART
    said = f"{'right' if right else 'WRONG'}; apart {highest:.1e} at the highest precision, {default:.1e} by default"
    return {"right": right, "highest": highest, "default": default, "said": said}


def _apart(figures: Figures, precision: str | None) -> float:
    """The largest absolute difference from the figures."""
    with jax.default_matmul_precision(precision):
        return max(float(np.max(np.abs(np.asarray(found) - wanted))) for found, wanted in figures())


def _content(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(The original's parameters, its figures)."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        content = dict(file)
    weights = {key.removeprefix("params/"): content.pop(key) for key in list(content) if key.startswith("params/")}
    return weights, content


def _decoder(name: str, network: Any, convert: Callable[..., Any], mask_ar: int) -> list[tuple[Any, Any]]:
    weights, content = _content(name)
    params = convert(weights, jax.eval_shape(network.init, jax.random.key(0), *network.inputs())["params"])
    tokens = jnp.asarray(content["input_ids"], jnp.int32)
    segments, read = jnp.ones_like(tokens), np.ones(tokens.shape, bool)
    if "doc_ids" in content:
        segments = jnp.asarray(content["doc_ids"] + 1, jnp.int32)
    if "padding" in content:
        read = ~content["padding"]
        segments = jnp.asarray(read, jnp.int32)
    example = Example(
        tokens, tokens, jnp.ones(tokens.shape), jnp.full_like(tokens, mask_ar), decoder_segment_ids=segments
    )
    logits = jax.jit(network.apply)({"params": params}, example)
    wanted = content.get("logits", content.get("logits_causal" if mask_ar else "logits_bidirectional"))
    return [(np.asarray(logits)[read], wanted[read])]


def _t5x(name: str, network: Any) -> list[tuple[Any, Any]]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        figures = dict(file)
    batch = {key.removeprefix("batch/"): jnp.asarray(value) for key, value in figures.items() if "batch/" in key}
    example = Example(**batch, decoder_mask_ar=jnp.ones_like(batch["decoder_target_tokens"]))

    def loss(params: Any) -> Any:
        logits = network.apply({"params": params}, example)
        log_z = jax.scipy.special.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, batch["decoder_target_tokens"][..., None], axis=-1)[..., 0]
        return jnp.sum((log_z - picked + 1e-4 * log_z**2) * batch["decoder_loss_weights"]), logits

    (_, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params_from_flat(figures))
    found = jax.tree_util.tree_leaves_with_path(gradients)
    named = [("/".join(str(key.key) for key in path), value) for path, value in found]
    return [(logits, figures["logits"]), *((value, figures[f"grads/{key}"]) for key, value in named)]


def _losses() -> list[tuple[Any, Any]]:
    _, content = _content("mile_focal")
    logits, targets = jnp.asarray(content["logits"], jnp.float32), jnp.asarray(content["targets"], jnp.int32)
    cost, scale = jax.jit(MiLe(1.0))(logits, targets)
    pairs: list[tuple[Any, Any]] = [(cost, content["cross_entropy"]), (scale - 1, content["entropy"])]
    for name, kind in (("mile", MiLe), ("focal", Focal)):
        for gamma in (0.5, 1.0, 2.0):
            cost, scale = kind(gamma)(logits, targets)
            pairs.append((jnp.sum(cost * scale) / jnp.sum(scale), content[f"{name}_{gamma}"]))
    return pairs
