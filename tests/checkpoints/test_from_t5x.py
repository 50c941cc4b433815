"""A T5X checkpoint is read without T5X, to the bit, and every way in which one can be broken is one sentence."""

import os
import shutil

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax import serialization
from support.places import GOLDEN

from mixlm.checkpoints.from_t5x import load_checkpoint, params_from_flat
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.models.layer_stack import Execution
from mixlm.models.t5 import EncoderDecoder
from mixlm.params import unstack_layers

CHECKPOINT = GOLDEN / "t5x_checkpoint" / "checkpoint_0"
NETWORK = EncoderDecoder(
    vocab_size=96, emb_dim=32, num_heads=4, head_dim=8, mlp_dim=64, num_encoder_layers=2, num_decoder_layers=2
)


@pytest.fixture(scope="module")
def figures():
    with np.load(GOLDEN / "t5x_encdec_v11.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def example(figures):
    batch = {name.removeprefix("batch/"): jnp.asarray(value) for name, value in figures.items() if "batch/" in name}
    return Example(**batch, decoder_mask_ar=jnp.ones_like(batch["decoder_target_tokens"]))


@pytest.fixture(scope="module")
def template(example):
    return jax.eval_shape(NETWORK.init, jax.random.key(0), example)["params"]


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(CHECKPOINT, tmp_path / "checkpoint_0")
    return tmp_path / "checkpoint_0"


def parameters(figures):
    return {name.removeprefix("params/"): value for name, value in figures.items() if name.startswith("params/")}


def leaves(tree, prefix=""):
    for name, value in tree.items():
        yield from leaves(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, value)]


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and text.rstrip().endswith((".", "?", "..."))
    return text


def test_checkpoint_holds_the_figures_parameters_to_the_bit(figures, template):
    loaded = dict(leaves(load_checkpoint(CHECKPOINT, template)))
    expected = parameters(figures)
    assert loaded.keys() == expected.keys()
    for name, value in loaded.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[name])


def test_checkpoint_gives_t5x_logits(figures, example):
    logits = jax.jit(NETWORK.apply)({"params": load_checkpoint(CHECKPOINT.parent)}, example)
    np.testing.assert_allclose(logits, figures["logits"], atol=1e-5, rtol=0)


def test_newest_of_several_checkpoints_is_read_by_number(copy, figures):
    """checkpoint_10 is newer than checkpoint_9, although it sorts before; an unfinished folder does not count."""
    parent = copy.parent
    shutil.copytree(copy, parent / "checkpoint_9")
    index = serialization.msgpack_restore((copy / "checkpoint").read_bytes())
    marked = np.full_like(parameters(figures)["encoder/encoder_norm/scale"], 7.0)
    index["optimizer"]["target"]["encoder"]["encoder_norm"]["scale"] = marked
    shutil.copytree(copy, parent / "checkpoint_10")
    (parent / "checkpoint_10" / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    (parent / "checkpoint_11").mkdir()
    # The marked array lies in the index itself, as T5X keeps what it does not shard.
    np.testing.assert_array_equal(load_checkpoint(parent)["encoder"]["encoder_norm"]["scale"], marked)
    assert not np.array_equal(load_checkpoint(parent / "checkpoint_9")["encoder"]["encoder_norm"]["scale"], marked)


@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize("prefix", ["", "target/", "params/"])
def test_flat_names_in_every_spelling(figures, template, prefix, separator):
    flat = {(prefix + name).replace("/", separator): value for name, value in parameters(figures).items()}
    assert dict(leaves(params_from_flat(flat, template))).keys() == parameters(figures).keys()


def test_what_lies_beside_prefixed_parameters_is_left_out(figures, template):
    everything = {"state/step": np.int32(3), **figures}
    np.testing.assert_array_equal(
        params_from_flat(everything, template)["token_embedder"]["embedding"],
        figures["params/token_embedder/embedding"],
    )


def test_bfloat16_arrays_become_float32():
    flat = {"encoder/layers_0/mlp/wo/kernel": jnp.full((2, 2), 1.5, jnp.bfloat16)}
    kernel = params_from_flat(flat)["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    assert kernel.dtype == np.float32 and (kernel == 1.5).all()


def test_unknown_missing_and_misshapen_names_are_named(figures, template):
    flat = parameters(figures)
    kernel = flat.pop("encoder/layers_0/mlp/wo/kernel")
    with pytest.raises(UserError, match="'encoder/layers_0/mlp/wo/kernel' is missing") as error:
        params_from_flat(flat, template)
    one_sentence(error)
    with pytest.raises(UserError, match=r"'encoder/layers_0/mlp/w0/kernel'.*mean 'encoder/layers_0/mlp/wo/kernel'"):
        params_from_flat({**flat, "encoder/layers_0/mlp/w0/kernel": kernel}, template)
    with pytest.raises(UserError, match=r"shape \(32, 64\), and the network's is \(64, 32\)"):
        params_from_flat({**flat, "encoder/layers_0/mlp/wo/kernel": kernel.T}, template)
    with pytest.raises(UserError, match="holds int64"):
        params_from_flat({"encoder/layers_0/mlp/wo/kernel": np.arange(3)})
    with pytest.raises(UserError, match="no parameters"):
        params_from_flat({})
    with pytest.raises(UserError, match="'a/b' names an array and a folder"):
        params_from_flat({"a/b": np.ones(1), "a/b/c": np.ones(1)})
    with pytest.raises(UserError, match="'a' names an array and a folder"):
        params_from_flat({"a": np.ones(1), "a/b/c": np.ones(1)})
    with pytest.raises(UserError, match=r"'encoder/layers/mlp/wo/kernel' is of shape \(3,\), and holds no stack"):
        params_from_flat({"encoder/layers/mlp/wo/kernel": np.ones(3)})


def scanned(flat: dict, name: str) -> dict:
    """The arrays as a scanned network of T5X's holds them: a stack under one name, its layers on the second axis."""
    found, layers = {}, {}
    for key, value in flat.items():
        part, _, rest = key.partition("/layers_")
        if rest:
            layers.setdefault(f"{part}/{name.format(part)}/{rest.partition('/')[2]}", []).append(value)
        else:
            found[key] = value
    return found | {key: np.stack(values, axis=1) for key, values in layers.items()}


@pytest.mark.parametrize("name", ["layers", "{}"])
def test_t5x_scanned_layers_are_taken_apart(figures, template, name):
    flat = parameters(figures)
    stacked = scanned(flat, name)
    assert len(stacked) < len(flat) and all("layers_" not in key for key in stacked)
    found = dict(leaves(params_from_flat(stacked, template)))
    assert found.keys() == flat.keys()
    for key, value in flat.items():
        np.testing.assert_array_equal(found[key], value)


def test_a_relative_bias_for_each_layer_is_refused(figures):
    flat = scanned(parameters(figures), "layers") | {
        "encoder/layers/relative_posemb/rel_embedding": np.ones((4, 2, 32))
    }
    with pytest.raises(
        UserError, match=r"relative_posemb/rel_embedding' holds a relative bias for each layer"
    ) as error:
        params_from_flat(flat)
    one_sentence(error)


def test_a_scanned_network_takes_t5x_layers_one_by_one(figures, template, example):
    network = NETWORK.clone(execution=Execution(scan=True))
    stacked = jax.eval_shape(network.init, jax.random.key(0), example)["params"]
    found = load_checkpoint(CHECKPOINT, stacked)
    assert "layers" in found["encoder"] and "layers_0" not in found["encoder"]
    wanted = dict(leaves(load_checkpoint(CHECKPOINT, template)))
    assert dict(leaves(unstack_layers(found))).keys() == wanted.keys()
    for key, value in leaves(unstack_layers(found)):
        np.testing.assert_array_equal(value, wanted[key])
    with pytest.raises(UserError, match=r"The network's 'decoder/layers_1/mlp/wo/kernel' is missing"):
        params_from_flat({k: v for k, v in wanted.items() if k != "decoder/layers_1/mlp/wo/kernel"}, stacked)


def remove_array(copy):
    shutil.rmtree(copy / "target.decoder.logits_dense.kernel")
    return "'decoder/logits_dense/kernel' is missing or torn"


def remove_chunk(copy):
    (copy / "target.decoder.logits_dense.kernel" / "0.0").unlink()
    return "'decoder/logits_dense/kernel' is torn"


def tear_chunk(copy):
    chunk = copy / "target.decoder.logits_dense.kernel" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    return "'decoder/logits_dense/kernel'.* is torn"


def tear_description(copy):
    (copy / "target.decoder.logits_dense.kernel" / ".zarray").write_text('{"chunks": [32')
    return "'decoder/logits_dense/kernel' is missing or torn"


def swap_arrays(copy):
    shutil.rmtree(copy / "target.decoder.logits_dense.kernel")
    shutil.copytree(copy / "target.token_embedder.embedding", copy / "target.decoder.logits_dense.kernel")
    return r"shape \(96, 32\), and the checkpoint's index says \(32, 96\)"


def tear_index(copy):
    index = copy / "checkpoint"
    index.write_bytes(index.read_bytes()[:-500])
    return "torn or no T5X checkpoint index"


def empty_index(copy):
    (copy / "checkpoint").write_bytes(b"")
    return "torn or no T5X checkpoint index"


def foreign_index(copy):
    (copy / "checkpoint").write_bytes(serialization.msgpack_serialize({"model": {"a": 1}}))
    return "names no parameters"


def old_index(copy):
    index = serialization.msgpack_restore((copy / "checkpoint").read_bytes())
    (copy / "checkpoint").write_bytes(serialization.msgpack_serialize({**index, "version": 2}))
    return "version 2"


def foreign_driver(copy):
    index = serialization.msgpack_restore((copy / "checkpoint").read_bytes())
    index["optimizer"]["target"]["decoder"]["logits_dense"]["kernel"]["driver"] = "n5"
    (copy / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    return "'n5', and only zarr"


def change_target(copy, change):
    index = serialization.msgpack_restore((copy / "checkpoint").read_bytes())
    change(index["optimizer"]["target"]["decoder"]["logits_dense"])
    (copy / "checkpoint").write_bytes(serialization.msgpack_serialize(index))


def odd_place(copy):
    change_target(copy, lambda dense: dense["kernel"].update(kvstore=[], path=7))
    return "speaks of a file 7, which is not in it"


def odd_shape(copy):
    change_target(copy, lambda dense: dense["kernel"].update(metadata={"shape": 3}))
    return r"shape \(32, 96\), and the checkpoint's index says 3"


def odd_metadata(copy):
    change_target(copy, lambda dense: dense["kernel"].update(metadata=3) or dense.update({"more": {"driver": []}}))
    return r"stores 'decoder/logits_dense/more' as \[\], and only zarr"


def odd_names(copy):
    index = msgpack.unpackb((copy / "checkpoint").read_bytes(), raw=False, strict_map_key=False)
    index["optimizer"]["target"] = {3: {"a": 1.0}, None: {}}
    (copy / "checkpoint").write_bytes(msgpack.packb(index))
    return "by other than text"


def piped_index(copy):
    (copy / "checkpoint").unlink()
    os.mkfifo(copy / "checkpoint")
    return "neither a T5X checkpoint"


def piped_description(copy):
    (copy / "target.decoder.logits_dense.kernel" / ".zarray").unlink()
    os.mkfifo(copy / "target.decoder.logits_dense.kernel" / ".zarray")
    return "'decoder/logits_dense/kernel' is missing or torn"


def piped_chunk(copy):
    (copy / "target.decoder.logits_dense.kernel" / "0.0").unlink()
    os.mkfifo(copy / "target.decoder.logits_dense.kernel" / "0.0")
    return "'decoder/logits_dense/kernel' is torn"


def remove_index(copy):
    (copy / "checkpoint").unlink()
    return "neither a T5X checkpoint"


def remove_folder(copy):
    shutil.rmtree(copy)
    return "no checkpoint folder at"


BREAKS = [remove_array, remove_chunk, tear_chunk, tear_description, swap_arrays, tear_index, empty_index]
BREAKS += [foreign_index, old_index, foreign_driver, remove_index, remove_folder]
BREAKS += [odd_place, odd_shape, odd_metadata, odd_names, piped_index, piped_description, piped_chunk]


@pytest.mark.parametrize("damage", BREAKS, ids=lambda damage: damage.__name__)
def test_a_broken_checkpoint_is_one_sentence(copy, damage):
    match = damage(copy)
    with pytest.raises(UserError, match=match) as error:
        load_checkpoint(copy)
    assert "checkpoint" in one_sentence(error) or "kernel" in one_sentence(error)
