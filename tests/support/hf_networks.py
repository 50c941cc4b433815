"""Networks with numbers of their own, the folders that transformers loads them from, and both libraries' logits."""

import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from mixlm.example import Example
from mixlm.interop.hf import export
from mixlm.interop.hf.architectures import MODELING, architecture_of
from mixlm.interop.hf.weights import to_theirs
from mixlm.models.gpt_bert import GPTBert
from mixlm.models.layer_stack import Execution
from mixlm.models.llama import Llama
from mixlm.models.ltg_bert import LTGBert
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.objectives.curriculum import Curriculum, Stage
from mixlm.objectives.span_corruption import SpanCorruption
from support.decoder_runs import CAUSAL, MASKED, TOKENS
from support.decoder_runs import recipe as decoder_recipe

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing is downloaded, and nothing asked
SIZE = {"vocab_size": 112, "emb_dim": 32, "num_heads": 4, "head_dim": 12, "mlp_dim": 48}
SCANNED = Execution(scan=True)
T5 = partial(EncoderDecoder, **SIZE, num_encoder_layers=2, num_decoder_layers=3)
DECODER = {**SIZE, "num_layers": 2}
NETWORKS = {
    "t5_1_1": T5(),
    "t5_1_1-scanned": T5(execution=SCANNED),
    "t5_1_0": T5(mlp_activations=("relu",), logits_via_embedding=True),
    "llama": Llama(**DECODER, epsilon=1e-5, rope_theta=5e4),
    "llama-tied-scanned": Llama(**DECODER, logits_via_embedding=True, execution=SCANNED),
    "dual": Llama(**DECODER, rope_theta=160000.0, epsilon=1e-7, projection_head=True, init_std=None),
    "dual-tied-scanned": Llama(**DECODER, projection_head=True, logits_via_embedding=True, execution=SCANNED),
    "decoder-tied": DecoderOnly(**DECODER, logits_via_embedding=True, bidirectional_bias=False),
    "decoder-scanned": DecoderOnly(**DECODER, mlp_activations=("relu",), execution=SCANNED),
    "ltg_bert": LTGBert(**DECODER, num_buckets=8, max_position=40),
    "ltg_bert-scanned": LTGBert(**DECODER, num_buckets=8, max_position=40, execution=SCANNED),
    "gpt_bert": GPTBert(**DECODER, num_buckets=8, max_position=40),
}


def recipe(network, folder: Path, masked: bool = False, corpus: Path | None = None):
    """A recipe that trains the network on the corpus, which may be nothing where nothing is trained."""
    objective = MASKED if masked else CAUSAL
    changes = {"networks": {"model": network}, "eval_period": 2}
    if isinstance(network, EncoderDecoder):
        objective, changes["lengths"] = SpanCorruption(TOKENS), {"inputs": 32, "targets": 8}
    return decoder_recipe(corpus or folder, folder, curriculum=Curriculum((Stage(0, objective),)), **changes)


def parameters(network):
    """Numbers for every parameter, those of norms away from one and biases away from zero, so that each is seen."""
    shapes = meta.unbox(jax.eval_shape(network.init, jax.random.key(0), *network.inputs())["params"])
    draw = np.random.default_rng(0)

    def numbers(path, leaf):
        name = jax.tree_util.keystr(path)
        if "scale" in name or "weights" in name:
            return draw.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        width = 0.3 if "bias" in name else 1.0 if "embed" in name else leaf.shape[-2] ** -0.5
        return (draw.normal(size=leaf.shape) * width * (0.5 if "query" in name else 1.0)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(numbers, shapes)


def written(network, params, folder: Path, masked: bool = False) -> Path:
    """The folder of an export without its tokenizer and card."""
    architecture = architecture_of(recipe(network, folder.parent / "run", masked))
    contents = {"config.json": export.as_json(architecture.config)}
    if architecture.kind == "mixlm":
        contents[f"{MODELING}.py"] = Path(export.__file__).with_name(f"{MODELING}.py").read_bytes()
    export.write_folder(folder, contents, to_theirs(architecture.kind, params))
    return folder


def rows(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(5, 112, (2, 45)).astype(np.int32)


@partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def apply(network, params, example):
    return network.apply({"params": params}, example)


def our_logits(network, params, mask_ar, real=None) -> np.ndarray:
    """Logits of two rows: positions open a causal step where `mask_ar` is 1, and are padding where not `real`."""
    tokens = rows()
    segments = np.ones_like(tokens) if real is None else real
    read = {"encoder_input_tokens": rows(2)[:, :30]} if isinstance(network, EncoderDecoder) else {}
    given = {
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
        "decoder_mask_ar": np.broadcast_to(mask_ar, tokens.shape).astype(np.int32),
        "decoder_segment_ids": segments.astype(np.int32),
        **read,
    }
    weights = jnp.ones(tokens.shape)
    example = Example(**{name: jnp.asarray(value) for name, value in given.items()}, decoder_loss_weights=weights)
    return np.asarray(apply(network, params, example))


def their_logits(model, **asked) -> np.ndarray:
    """The same of a model of transformers."""
    import torch

    tokens = torch.from_numpy(rows()).long()
    given = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        given = {"input_ids": torch.from_numpy(rows(2)[:, :30]).long(), "decoder_input_ids": tokens}
    with torch.no_grad():
        return model(**given, **asked).logits.numpy()
