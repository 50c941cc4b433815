"""A run's network as a checkpoint of T5X, with the state of Adafactor, and the gin text of T5X's network."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optax
from flax.core import meta

from mixlm import files
from mixlm.api.run import Run
from mixlm.checkpoints.load import check_networks, load_params
from mixlm.checkpoints.reader import read_state
from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.to_t5x import write_checkpoint
from mixlm.data.vocabularies.sentencepiece import SentencePieceVocabulary
from mixlm.errors import UserError, nearest
from mixlm.interop.hf.export import new_folder
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.per_layer import LayeredState
from mixlm.params import unstack_layers, with_stacks
from mixlm.paths import make_within, within
from mixlm.recipe import Recipe
from mixlm.training.initial_state import initial_state

# Our networks, by class, and T5X's: the module, its class of sizes, and the names of sizes.
SIZES = ("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim", "mlp_activations", "dropout_rate")
NETWORKS = {
    "EncoderDecoder": ("t5x.examples.t5", "T5Config", ("num_encoder_layers", "num_decoder_layers")),
    "DecoderOnly": ("t5x.examples.decoder_only", "TransformerConfig", ("num_layers",)),
}
BUCKETS = {"num_buckets": 32, "max_distance": 128}


def export(run: Run, out: str | Path, network: str = "model", say: Callable[[str], Any] = print) -> Path:
    """Writes a run's network as `out`/checkpoint_STEP, beside it network.gin for T5X and the SentencePiece model.

    Scanned layers are taken apart, as in T5X's examples `t5` and `decoder_only`. Returns the checkpoint's folder.
    Raises UserError where `out` holds anything, where the run has no checkpoint, and for a network that T5X has not.
    """
    recipe, folder = run.recipe, new_folder(out)
    check_networks(recipe, (network,))
    text = network_gin(recipe.networks[network])
    vocabulary = recipe.dataset.load_vocabulary(lambda line: None)
    step, params = load_params(recipe, (network,), vocabulary.fingerprint)
    tree = host(params[network])
    states = adafactor_states(recipe, RunDir(run.folder).checkpoints / str(step), step, network)
    contents = {"network.gin": text.encode()}
    if isinstance(vocabulary, SentencePieceVocabulary):
        contents["spiece.model"] = files.read_bytes(vocabulary.path)
    made = not folder.exists()
    try:
        make_within(folder.parent, folder.name)
        for name, content in contents.items():
            with files.replacing(within(folder, name), "wb") as file:
                file.write(content)
        place = write_checkpoint(folder, step, tree, states)
    except (OSError, UserError) as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from error
        raise
    beside = "with Adafactor's state" if states is not None else "without an optimizer's state"
    say(f"{run.folder}, step {step}: T5X's checkpoint in {place}, {beside}")
    return place


def network_gin(module: Any) -> str:
    """The gin text of T5X's network that computes what `module` does; UserError where T5X has none."""
    name = type(module).__name__
    if name not in NETWORKS:
        raise UserError(f"T5X has no network like {name}, only like {' and '.join(NETWORKS)}.{nearest(name, NETWORKS)}")
    values = {each.name: getattr(module, each.name) for each in dataclasses.fields(module)}
    for field, value in BUCKETS.items():
        if values[field] != value:
            raise UserError(f"T5X's networks have {field} = {value}, and this one has {values[field]}.")
    if values.get("bidirectional_bias"):
        raise UserError(
            "T5X's decoder has no relative buckets for the future: only bidirectional_bias = False is exported."
        )
    where, sizes, layers = NETWORKS[name]
    fields = "\n".join(
        f"  {field} = {values[field]!r}" for field in (*SIZES, *layers, "logits_via_embedding") if field in values
    )
    return f"from __gin__ import dynamic_registration\n\nfrom {where} import network\n\nnetwork.{sizes}:\n{fields}\n"


def adafactor_states(recipe: Recipe, checkpoint: Path, step: int, network: str) -> dict[str, Any] | None:
    """The state of T5X's Adafactor for each parameter, None where another rule or other steps made the run's.

    T5X counts the updates by its step, so a network that was not trained in each of them has no state there.
    """
    if not isinstance(recipe.optimizer.rule, Adafactor):
        return None
    layout = recipe.partitioning.layout()
    _, shapes = initial_state(dict(recipe.modules), recipe.optimizer, recipe.seed, layout)
    found = read_state(checkpoint, shapes).opt_state[network]
    stacks = found.stacks if isinstance(found, LayeredState) else {}
    rest: optax.FactoredState = (found.rest if isinstance(found, LayeredState) else found)[0]
    if int(rest.count) != step:
        return None

    def whole(name: str) -> Any:
        stacked = {tuple(path.split("/")): getattr(state[0], name) for path, state in stacks.items()}
        return host(with_stacks(getattr(rest, name), stacked))

    return _leaf_by_leaf({name: whole(name) for name in ("v_row", "v_col", "v")})


def _leaf_by_leaf(trees: Mapping[str, Any]) -> Any:
    """One tree of {name: array} from a tree for each name, and T5X's empty momentum."""
    first = trees["v"]
    if isinstance(first, Mapping):
        return {part: _leaf_by_leaf({name: tree[part] for name, tree in trees.items()}) for part in first}
    return {**trees, "m": np.zeros(1, np.float32)}


def host(tree: Any) -> Any:
    """A tree's float32 arrays in the host's memory, its layers apart."""
    return _as_arrays(unstack_layers(meta.unbox(tree)))


def _as_arrays(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _as_arrays(part) for name, part in tree.items()}
    return np.asarray(tree, np.float32)
