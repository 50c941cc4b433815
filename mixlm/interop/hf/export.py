"""A run's network as a folder that transformers loads: weights, config.json, tokenizer, model card."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mixlm import files
from mixlm.api.run import Run
from mixlm.checkpoints.load import check_networks, load_params
from mixlm.checkpoints.safetensors import write_safetensors
from mixlm.data.vocabularies.byte import ByteVocabulary
from mixlm.data.vocabularies.sentencepiece import SentencePieceVocabulary
from mixlm.data.vocabularies.special_tokens import Layout
from mixlm.data.vocabularies.tokenizer_json import TokenizerJson
from mixlm.errors import UserError
from mixlm.interop.hf.architectures import MODELING, Architecture, architecture_of
from mixlm.interop.hf.card import model_card
from mixlm.interop.hf.tokenizer import as_json, tokenizer_files
from mixlm.interop.hf.weights import EMBEDDINGS, fitted_rows, to_theirs
from mixlm.paths import local, make_within, within

WEIGHTS = "model.safetensors"
KEPT = "hf"  # the folder of an imported run with what lay beside the weights
MODEL_FILES = {"t5": "spiece.model", "llama": "tokenizer.model", "mixlm": "tokenizer.model"}


def export(
    run: Run | str | os.PathLike[str],
    out: str | os.PathLike[str],
    network: str = "model",
    say: Callable[[str], Any] = print,
) -> Path:
    """Writes the network of a run, or of its folder, into the new folder `out`, which transformers loads; its path.

    Raises UserError where `out` holds anything, where the run has no checkpoint, and for a network without an
    architecture there; nothing is written then.
    """
    run = run if isinstance(run, Run) else Run(run)
    recipe, folder = run.recipe, new_folder(out)
    check_networks(recipe, (network,))
    kept = run.folder / KEPT
    architecture = kept_architecture(run) if kept.is_dir() else None
    vocabulary = recipe.dataset.load_vocabulary(lambda line: None)
    step, params = load_params(recipe, (network,), vocabulary.fingerprint)
    untrained = architecture is not None and step == 0
    given = vocabulary.given if isinstance(vocabulary, TokenizerJson) else Layout(vocabulary.token_ids)
    if architecture is None or step:
        architecture = in_ids_of(given, architecture_of(recipe, network))
    weights = their_weights(architecture, params[network], given.zero, untrained)
    contents = {path.name: files.read_bytes(path) for path in sorted(kept.iterdir())} if untrained else {}
    if not untrained or not isinstance(vocabulary, ByteVocabulary):  # ByT5's own tokenizer has no file
        contents |= tokenizer_files(vocabulary, decoder=architecture.kind != "t5")
    if not untrained:
        contents |= {"generation_config.json": as_json(generation(architecture))}
        if isinstance(vocabulary, SentencePieceVocabulary):
            contents[MODEL_FILES[architecture.kind]] = files.read_bytes(vocabulary.path)
        contents["README.md"] = model_card(run, step, architecture, weights).encode()
        if architecture.kind == "mixlm":
            contents[f"{MODELING}.py"] = files.read_bytes(Path(__file__).with_name(f"{MODELING}.py"))
    contents["config.json"] = as_json(architecture.config)
    write_folder(folder, contents, weights)
    say(f"{run.folder}, step {step}: {architecture.config['architectures'][0]} in {folder}")
    return folder


def in_ids_of(given: Layout, architecture: Architecture) -> Architecture:
    """The architecture with special ids as the tokenizer's file has them, whose id 0 may be text."""
    config = {
        name: given.here(value) if name.endswith("_token_id") else value for name, value in architecture.config.items()
    }
    return Architecture(architecture.kind, config)


def kept_architecture(run: Run) -> Architecture:
    """The architecture that an imported run came with, whose embedding may have more rows by now."""
    config: dict[str, Any] = files.read_json(within(run.folder, f"{KEPT}/config.json"))
    return Architecture(config["model_type"], config | {"vocab_size": run.recipe.networks["model"].vocab_size})


def their_weights(architecture: Architecture, params: Any, zero: int, untrained: bool) -> dict[str, Any]:
    """The weights as transformers has them, with row `zero` in the place of padding's, and the other way.

    A T5 1.1 that came with no head but its embedding, of which it was given a copy, goes without one while untrained.
    """
    kind, weights = architecture.kind, to_theirs(architecture.kind, params)
    if zero:
        weights = {name: fitted_rows(name, value, kind, 0, zero) for name, value in weights.items()}
    head, embedding = EMBEDDINGS["t5"][-2:]
    tied = untrained and kind == "t5" and architecture.config.get("tie_word_embeddings") is not False
    if tied and head in weights and np.array_equal(weights[head], weights[embedding]):
        del weights[head]
    return weights


def new_folder(out: str | os.PathLike[str]) -> Path:
    """The local path of a folder that is to be written; UserError where it holds anything."""
    folder = local(out, "The new folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty: name a new folder.")
    return folder


def generation(architecture: Architecture) -> dict[str, Any]:
    """The content of generation_config.json: special ids, and whether there is a KV cache."""
    names = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "use_cache")
    return {name: architecture.config[name] for name in names if name in architecture.config}


def write_folder(folder: Path, contents: dict[str, bytes], weights: dict[str, Any]) -> None:
    """Writes the files, config.json last, without which a folder is no model; nothing stays of a failure."""
    made = not folder.exists()
    try:
        make_within(folder.parent, folder.name)
        write_safetensors(within(folder, WEIGHTS), weights)
        for name in sorted(contents, key=lambda name: name == "config.json"):
            with files.replacing(within(folder, name), "wb") as file:
                file.write(contents[name])
    except OSError as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from error
