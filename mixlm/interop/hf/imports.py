"""A folder of transformers as a run: one checkpoint of step 0, its vocabulary, and network.gin for other recipes."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixlm import files
from mixlm.api.run import Run
from mixlm.checkpoints.run_dir import RunDir
from mixlm.checkpoints.safetensors import read_safetensors
from mixlm.checkpoints.saving import Checkpoints
from mixlm.checkpoints.warm_start import placed
from mixlm.data.vocabularies.given import BYT5, GivenVocabulary
from mixlm.data.vocabularies.kept import keep
from mixlm.data.vocabulary import SentencePieceFile
from mixlm.errors import UserError
from mixlm.gin_config.build import load
from mixlm.interop.hf.export import KEPT, WEIGHTS, new_folder
from mixlm.interop.hf.networks import Described, described, gin_text
from mixlm.interop.hf.tokenizer import tokenizer_files
from mixlm.interop.hf.weights import EMBEDDINGS, fitted_rows, from_theirs
from mixlm.paths import local, make_within, within
from mixlm.training.initial_state import initial_state

INDEX, TOKENIZER, CONFIG = f"{WEIGHTS}.index.json", "tokenizer.json", "config.json"
TOKENIZER_CONFIG, BYT5_TOKENIZER = "tokenizer_config.json", "ByT5Tokenizer"
MODELS = ("spiece.model", "tokenizer.model")  # SentencePiece's, of T5 and of Llama
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LONGEST = 512  # Ours: tokens of a row in training, where the network reads so many.


def import_folder(source: str | Path, out: str | Path, sentinels: int = 0, say: Callable[[str], Any] = print) -> Run:
    """Makes the new folder `out` a run of the network in `source`, a T5, a Llama or an export of mixlm's.

    The weights are safetensors; nothing is unpickled. Special tokens are those that the tokenizer names; what it lacks
    is appended behind its ids, at last `sentinels` sentinels, and a row of the embedding and of the head for which the
    network has no room is the mean of the rows there. Raises UserError for a folder without a model, an architecture
    that there is not, weights that do not fit config.json, and a tokenizer that does not fit the network.
    """
    folder, place = local(source, "The folder to import"), new_folder(out)
    config = read_config(folder)
    found = described(config, str(folder / CONFIG))
    weights = with_head(found, read_weights(folder))
    made = not place.exists()
    try:
        vocabulary = keep_files(folder, place, found, config)
        run = _import(found, config, weights, place, vocabulary, sentinels, str(folder))
    except BaseException as error:
        if made:
            shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{place} cannot be written: {error.strerror or error}.") from error
        raise
    say(f"{folder}: {found.network} in {place}, step 0; for other recipes: --gin_file={place / 'network.gin'}")
    return run


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json; UserError where the folder has none."""
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} is no folder of transformers: it has no {CONFIG}.")
    return files.read_json(folder / CONFIG)


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the folder's safetensors; UserError where it has a pickle or nothing instead."""
    for name in (WEIGHTS, INDEX):
        if (folder / name).exists():
            return read_safetensors(folder / name)
    pickles = [path.name for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    if pickles:
        raise UserError(
            f"{folder} holds a pickle ({pickles[0]}), which can run any code: save it as safetensors, "
            f"by save_pretrained of transformers."
        )
    raise UserError(f"{folder} holds no weights ({WEIGHTS}, or {INDEX} for several files).")


def with_head(found: Described, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights with a head of its own for a T5 1.1 whose head is its embedding, as transformers 5 ties it."""
    head, embedding = EMBEDDINGS["t5"][-2:]
    if found.kind == "t5" and not found.fields["logits_via_embedding"] and embedding in weights:
        return {head: weights[embedding]} | weights
    return weights


def keep_files(folder: Path, place: Path, found: Described, config: Mapping[str, Any]) -> str:
    """Copies what lies beside the weights into the run, and returns the vocabulary's path, or its name.

    A tokenizer.json is used as it is; T5's SentencePiece model alone becomes one, with the 100 sentinels of T5. A
    ByT5Tokenizer has no file: it is the vocabulary "byt5".
    """
    kept = make_within(make_within(place.parent, place.name), KEPT)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(WEIGHTS) and path.suffix != ".safetensors":
            content = files.read_bytes(path)
            if path.suffix in (".json", ".model", ".md", ".py"):
                _write(kept / path.name, content)
    models = [kept / name for name in MODELS if (kept / name).exists()]
    if (kept / TOKENIZER).exists():
        return str((kept / TOKENIZER).absolute())
    if not models and BYT5_TOKENIZER in (config.get("tokenizer_class"), tokenizer_class(kept)):
        return BYT5
    if not models:
        raise UserError(f"{folder} holds no tokenizer ({TOKENIZER}, {' or '.join(MODELS)}).")
    if found.kind == "t5":
        vocabulary = SentencePieceFile(str(models[0])).load(tuple, "", kept, lambda line: None)
        for name, content in tokenizer_files(vocabulary, decoder=False).items():
            _write(kept / name, content)
        return str((kept / TOKENIZER).absolute())
    return str(models[0].absolute())


def tokenizer_class(folder: Path) -> Any:
    """The class that tokenizer_config.json names, None where there is none."""
    path = folder / TOKENIZER_CONFIG
    return files.read_json(path).get("tokenizer_class") if path.exists() else None


def _write(path: Path, content: bytes) -> None:
    with files.replacing(within(path.parent, path.name), "wb") as file:
        file.write(content)


def _import(
    found: Described,
    config: Mapping[str, Any],
    weights: dict[str, np.ndarray],
    place: Path,
    vocabulary: str,
    sentinels: int,
    source: str,
) -> Run:
    given = GivenVocabulary(vocabulary, sentinels)
    size, tokens, appended = config["vocab_size"], given.token_ids, len(given.layout.appended)
    if tokens.vocab_size - appended > size:
        raise UserError(
            f"The tokenizer of {source} has {tokens.vocab_size - appended} ids, and its network {size}: they do not "
            "belong together."
        )
    grown = max(size, tokens.vocab_size)
    text = gin_text(found, grown, vocabulary, sentinels, source)
    _write(place / "network.gin", text.encode())
    recipe = _recipe(found, place)
    layout = recipe.partitioning.layout()
    create, shapes = initial_state(dict(recipe.modules), recipe.optimizer, recipe.seed, layout)
    resized = {name: fitted_rows(name, value, found.kind, grown, given.layout.zero) for name, value in weights.items()}
    params = from_theirs(found.kind, resized, shapes.params["model"])
    state = create().replace(params={"model": placed(params, shapes.params["model"])})
    folder = RunDir(place)
    try:
        folder.acquire(recipe.identity() | {"vocabulary": given.load().fingerprint}, recipe.config)
        keep(Path(vocabulary), place)
        checkpoints = Checkpoints(folder.checkpoints)
        checkpoints.save(0, state)
        checkpoints.close()
    finally:
        folder.release()
    return Run(place, recipe)


def _recipe(found: Described, place: Path) -> Any:
    base = "interop/encoder_decoder.gin" if found.kind == "t5" else "interop/decoder.gin"
    changes: dict[str, Any] = {"MODEL_DIR": str(place)}
    if found.length is not None:
        changes["TASK_FEATURE_LENGTHS"] = {"targets": min(found.length, LONGEST)}
    return load(base, place / "network.gin", **changes)
