"""A run's network as a folder that transformers loads: weights, config.json, tokenizer, model card."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mixlm import files
from mixlm.api.run import Run
from mixlm.checkpoints.load import check_networks, load_params
from mixlm.checkpoints.safetensors import write_safetensors
from mixlm.data.vocabularies.sentencepiece import SentencePieceVocabulary
from mixlm.errors import UserError
from mixlm.interop.hf.architectures import MODELING, Architecture, architecture_of
from mixlm.interop.hf.card import model_card
from mixlm.interop.hf.tokenizer import tokenizer_files
from mixlm.interop.hf.weights import to_theirs
from mixlm.paths import local, make_within, within

WEIGHTS = "model.safetensors"
MODEL_FILES = {"t5": "spiece.model", "llama": "tokenizer.model", "mixlm": "tokenizer.model"}


def export(run: Run, out: str | Path, network: str = "model", say: Callable[[str], Any] = print) -> Path:
    """Writes a run's network into the new folder `out`, which transformers loads, and returns its path.

    Raises UserError where `out` holds anything, where the run has no checkpoint, and for a network without an
    architecture there; nothing is written then.
    """
    recipe, folder = run.recipe, new_folder(out)
    check_networks(recipe, (network,))
    architecture = architecture_of(recipe, network)
    vocabulary = recipe.dataset.prepare(lambda line: None).vocabulary
    if not isinstance(vocabulary, SentencePieceVocabulary):
        raise UserError(f"A {type(vocabulary).__name__} is not exported to transformers, only SentencePiece models.")
    tokens = files.read_bytes(vocabulary.path)
    contents = tokenizer_files(tokens, recipe.tokens, decoder=architecture.kind != "t5")
    contents |= {MODEL_FILES[architecture.kind]: tokens, "config.json": as_json(architecture.config)}
    contents["generation_config.json"] = as_json(generation(architecture))
    step, params = load_params(recipe, (network,), vocabulary.fingerprint)
    weights = to_theirs(architecture.kind, params[network])
    contents["README.md"] = model_card(run, step, architecture, weights).encode()
    if architecture.kind == "mixlm":
        contents[f"{MODELING}.py"] = files.read_bytes(Path(__file__).with_name(f"{MODELING}.py"))
    write_folder(folder, contents, weights)
    say(f"{run.folder}, step {step}: {architecture.config['architectures'][0]} in {folder}")
    return folder


def new_folder(out: str | Path) -> Path:
    """The local path of a folder that is to be written; UserError where it holds anything."""
    folder = local(out, "The folder of the export")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty: name a new folder for the export.")
    return folder


def generation(architecture: Architecture) -> dict[str, Any]:
    """The content of generation_config.json: special ids, and whether there is a KV cache."""
    names = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "use_cache")
    return {name: architecture.config[name] for name in names if name in architecture.config}


def as_json(content: dict[str, Any]) -> bytes:
    """JSON as transformers writes it, for people to read."""
    return f"{json.dumps(content, indent=2, ensure_ascii=False)}\n".encode()


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
