"""One law for every network of the recipes: out, into transformers, in again and out again, and nothing has changed.

A run of each recipe is exported, loaded and saved by transformers, imported and exported a second time: the logits are
equal to 1e-5 and the files to the byte, the model card too: a run that was not trained keeps the one it came with.
"""

import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

from support.hf_networks import our_logits, their_logits
from support.places import GIN
from support.runs import DEVICES
from support.saved_runs import saved_run, small

from mixlm.api.functions import load_recipe
from mixlm.api.run import Run
from mixlm.cli import export, import_
from mixlm.files import read_json
from mixlm.interop.hf.networks import described

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

SCANNED = {"SCAN_LAYERS": True}


class Chain(NamedTuple):
    """A recipe, the class of its network, what is changed of it, and the class of transformers that loads it."""

    recipe: str
    module: str
    loaded: str = "MixlmForCausalLM"
    fields: dict = {}  # noqa: RUF012
    macros: dict = {}  # noqa: RUF012
    network: str = "model"


T5, T5_CLASS, LLAMA_CLASS = "EncoderDecoder", "T5ForConditionalGeneration", "LlamaForCausalLM"
CHAINS = {
    "t5_1_1": Chain("spactor", T5, T5_CLASS, {"logits_via_embedding": False}),
    "t5_1_1-tied-scanned": Chain("spactor", T5, T5_CLASS, {"logits_via_embedding": True}, SCANNED),
    "t5_1_0": Chain("spactor", T5, T5_CLASS, {"mlp_activations": ("relu",), "logits_via_embedding": True}),
    "generator": Chain("spactor", "DecoderOnly", fields={"emb_dim": 16}, network="generator"),
    "decoder": Chain("ar2diff", "DecoderOnly", fields={"logits_via_embedding": True}),
    "decoder-untied-scanned": Chain("ar2diff", "DecoderOnly", fields={"logits_via_embedding": False}, macros=SCANNED),
    "llama": Chain("mile", "Llama", LLAMA_CLASS, {"logits_via_embedding": True}),
    "llama-untied-scanned": Chain("mile", "Llama", LLAMA_CLASS, {"logits_via_embedding": False}, SCANNED),
    "llama-masked": Chain("antlm", "Llama"),
    "dual": Chain("dual", "Llama", fields={"logits_via_embedding": False}),
    "dual-tied-scanned": Chain("dual", "Llama", fields={"logits_via_embedding": True}, macros=SCANNED),
    "ltg_bert": Chain("antlm_ltg_bert", "LTGBert"),
    "ltg_bert-scanned": Chain("antlm_ltg_bert", "LTGBert", macros=SCANNED),
    "gpt_bert": Chain("gpt_bert", "GPTBert"),
}


def test_every_recipe_is_in_a_chain():
    recipes = {path.stem for path in GIN.glob("*.gin")} - {"base", "evaluate", "study"}
    assert {chain.recipe for chain in CHAINS.values()} == recipes


def command(main, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mixlm", *map(str, arguments)])
    main()


def close(left, right):
    assert np.abs(right).max() > 1
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-5 * np.abs(right).max())


def loaded(folder, chain):
    """The model as transformers loads it, with code of ours where it has no class."""
    auto = transformers.AutoModelForSeq2SeqLM if chain.module == T5 else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__name__ == chain.loaded
    return model


@pytest.mark.parametrize("name", CHAINS)
def test_out_and_in_and_out_again_changes_nothing(name, tmp_path: Path, corpus, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: DEVICES[:1])
    chain = CHAINS[name]
    first, second = tmp_path / "first", tmp_path / "second"
    values = small(chain.module, **chain.fields) | chain.macros
    run = saved_run(load_recipe(f"{chain.recipe}.gin", text=corpus, MODEL_DIR=tmp_path / "run", **values))
    command(export.main, monkeypatch, run.folder, first, "--to=hf", f"--network={chain.network}")

    network, params = run.recipe.networks[chain.network], run.params[chain.network]
    logits, model = our_logits(network, params, 1), loaded(first, chain)
    close(their_logits(model), logits)
    if model.config.model_type == "mixlm":
        close(their_logits(model, attention="bidirectional"), our_logits(network, params, 0))
    model.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    configs = [read_json(folder / "config.json") for folder in (first, tmp_path / "theirs")]
    assert described(configs[0], "ours") == described(configs[1], "theirs")

    command(import_.main, monkeypatch, f"hf:{first}", tmp_path / "back")
    back = Run(tmp_path / "back")
    close(our_logits(back.recipe.networks["model"], back.params["model"], 1), logits)
    command(export.main, monkeypatch, back.folder, second, "--to=hf")
    beside = {"spiece.model"} if chain.module == T5 else {"tokenizer.model"}
    beside |= {"modeling_mixlm.py"} if model.config.model_type == "mixlm" else set()
    always = {"config.json", "generation_config.json", "README.md", "tokenizer.json", "tokenizer_config.json"}
    written = {path.name: path.read_bytes() for path in first.iterdir()}
    assert written.keys() == always | beside | {"model.safetensors"}
    assert {path.name: path.read_bytes() for path in second.iterdir()} == written
