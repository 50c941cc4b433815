"""A run goes out as T5X wrote it, comes back to the bit, and has the tree of T5X's own networks."""

import ast
import json

import jax
import numpy as np
import pytest
from flax import serialization
from flax.core import meta
from flax.traverse_util import flatten_dict
from support.hf_networks import NETWORKS, parameters
from support.places import GOLDEN

from mixlm.checkpoints.from_t5x import load_checkpoint
from mixlm.checkpoints.to_t5x import CHUNK_BYTES, chunks, write_checkpoint
from mixlm.errors import UserError
from mixlm.interop.t5x.export import host, network_gin
from mixlm.models.t5 import EncoderDecoder
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.params import unstack_layers

THEIRS = GOLDEN / "t5x_checkpoint" / "checkpoint_0"
TREES = json.loads((GOLDEN / "t5x_trees.json").read_text())
SIZES = {"vocab_size": 96, "emb_dim": 32, "num_heads": 4, "head_dim": 8, "mlp_dim": 64}
BOTH = {"num_encoder_layers": 2, "num_decoder_layers": 3}


def is_entry(path, value):
    return isinstance(value, dict) and "driver" in value


def index_of(folder):
    return serialization.msgpack_restore((folder / "checkpoint").read_bytes())


def test_what_t5x_wrote_is_written_again_entry_by_entry(tmp_path):
    """The index of a checkpoint that T5X's trainer wrote, with Adafactor's state, and each array's description."""
    theirs = index_of(THEIRS)
    states = flatten_dict(theirs["optimizer"]["state"]["param_states"], is_leaf=is_entry)
    full = {path: np.zeros(spec["metadata"]["shape"], np.float32) for path, spec in states.items() if path[-1] == "v"}
    tree: dict = {}
    for path in states:
        part = tree
        for name in path[:-1]:
            part = part.setdefault(name, {})
        part[path[-1]] = full.get(path, np.zeros(1, np.float32))
    step = int(theirs["optimizer"]["state"]["step"])
    ours = write_checkpoint(tmp_path, step, load_checkpoint(THEIRS), tree)
    assert ours.name == THEIRS.name
    found, expected = (flatten_dict(each, is_leaf=is_entry) for each in (index_of(ours), theirs))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert type(found[path]) is type(value)
        np.testing.assert_equal(found[path], value)
    for array in THEIRS.glob("target.*/.zarray"):
        assert json.loads((ours / array.parent.name / ".zarray").read_text()) == json.loads(array.read_text())
    back, given = load_checkpoint(ours), load_checkpoint(THEIRS)
    jax.tree.map(np.testing.assert_array_equal, back, given)


@pytest.mark.parametrize("name", ["t5_1_1-scanned", "decoder-tied"])
def test_a_network_comes_back_to_the_bit(name, tmp_path):
    params = parameters(NETWORKS[name])
    folder = write_checkpoint(tmp_path, 7, host(params))
    back = load_checkpoint(tmp_path, params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert index_of(folder)["optimizer"]["state"]["step"] == 7 and folder.name == "checkpoint_7"


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("t5_1_1", EncoderDecoder(**SIZES, **BOTH)),
        ("t5_1_0", EncoderDecoder(**SIZES, **BOTH, mlp_activations=("relu",), logits_via_embedding=True)),
        ("decoder_only", DecoderOnly(**SIZES, num_layers=2, bidirectional_bias=False)),
    ],
)
def test_the_tree_is_that_of_t5x(name, network):
    """Names and shapes that T5X's own modules initialise at these sizes (tests/golden/t5x_trees.json)."""
    shapes = meta.unbox(jax.eval_shape(network.init, jax.random.key(0), *network.inputs())["params"])
    flat = flatten_dict(unstack_layers(shapes), sep="/")
    assert {name: list(leaf.shape) for name, leaf in flat.items()} == TREES[name]
    head, *lines = network_gin(network).removesuffix("\n").split("\n  ")
    told = {field: ast.literal_eval(value) for field, value in (line.split(" = ") for line in lines)}
    assert head.endswith("network.TransformerConfig:" if name == "decoder_only" else "network.T5Config:")
    assert SIZES.items() <= told.items() and {"logits_via_embedding", "mlp_activations", "dropout_rate"} <= told.keys()
    assert told == {field: getattr(network, field) for field in told}
    assert {field for field in told if "layers" in field} == {f for f in network.__dataclass_fields__ if "_layers" in f}


def test_chunks_divide_an_array_evenly_and_stay_below_the_bound():
    """A table of 256,000 x 1,024 floats is cut along its longest axis into even parts, the largest that fit."""
    table = np.broadcast_to(np.float32(0), (256_000, 1024))
    assert chunks(table) == [16_000, 1024] and 16_000 * 1024 * 4 <= CHUNK_BYTES < 20_480 * 1024 * 4
    assert chunks(np.zeros((3, 5), np.float32)) == [3, 5] and chunks(np.zeros((), np.float32)) == []


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (NETWORKS["llama"], "T5X has no network like Llama, only like EncoderDecoder and DecoderOnly"),
        (DecoderOnly(**SIZES, num_layers=1), "only bidirectional_bias = False is exported"),
        (EncoderDecoder(**SIZES, **BOTH, num_buckets=16), "T5X's networks have num_buckets = 32, and this one has 16"),
    ],
)
def test_a_network_that_t5x_has_not_is_named(network, sentence):
    with pytest.raises(UserError, match=sentence):
        network_gin(network)
