"""The registry of seqio: what defines a Task or Mixture, and the content that a Task rests on."""

import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixlm.data.quiet_tensorflow import import_seqio
from mixlm.data.sources.base import digest
from mixlm.data.store.fingerprint_cache import sha256_of
from mixlm.data.user_module import files_of, imported
from mixlm.errors import NotHere, UserError, nearest

if TYPE_CHECKING:
    import seqio


def definition_of(kind: str, name: str, module: str) -> list[str]:
    """The digests that define a Task or Mixture, without importing it; NotHere where its name or module is missing."""
    if not name:
        raise NotHere(f"No {kind} was named: say --gin.MIXTURE_OR_TASK_NAME=NAME.")
    if not re.fullmatch(r"[\w.:]+", name):
        raise UserError(f"The {kind}'s name {name!r} may only hold letters, digits, '_', '.' and ':'.")
    if not module:
        raise NotHere(f"No module was given: say --gin.TASK_MODULE=MODULE, or a .py file, that registers the {kind}.")
    return [*sha256_of(files_of(module)), importlib.metadata.version("seqio")]


def mixture_parts(name: str, module: str) -> list[tuple[str, float]]:
    """The Tasks of the seqio Mixture that `module` registers, each with its rate, shares of inner Mixtures included."""
    seqio = import_seqio()
    imported(module)
    if name in seqio.TaskRegistry.names():
        raise UserError(f"{name!r} is no Mixture but a Task; give --gin_file=data/seqio_task.gin.")
    if name not in seqio.MixtureRegistry.names():
        raise UserError(f"{module!r} registers no Mixture {name!r}.{nearest(name, seqio.MixtureRegistry.names())}")
    mixture = seqio.MixtureRegistry.get(name)
    try:
        return [(task.name, float(mixture.get_rate(task))) for task in mixture.tasks]
    except Exception as error:
        # A rate may be a function, and those of inner Mixtures must not be.
        raise UserError(
            f"The Mixture {name!r} does not say its rates: {type(error).__name__}: {sentence_of(error)}."
        ) from error


def source_of(task: "seqio.Task", splits: tuple[str, ...]) -> tuple[str, list[str]]:
    """SHA-256 over what the source reads, as far as it can be known, and the files that this rests on."""
    seqio = import_seqio()
    import tensorflow as tf

    source = task.source
    if isinstance(source, seqio.TfdsDataSource):
        builder = source.tfds_dataset.builder
        lengths = [[split, source.num_input_examples(split)] for split in splits]
        shards = [[name, split.shard_lengths, split.num_bytes] for name, split in sorted(builder.info.splits.items())]
        return digest(builder.info.full_name, lengths, shards), [str(Path(builder.data_dir) / "dataset_info.json")]
    if not isinstance(source, seqio.FileDataSource):
        return digest(type(source).__name__), []
    names = {split: list(source.list_shards(split)) for split in splits}
    for split, files in names.items():
        if missing := [file for file in files if not tf.io.gfile.exists(file)] if files else ["any file"]:
            raise UserError(f"The Task {task.name!r} finds no {missing[0]!r} for its split {split!r}.")
    local = all(Path(file).exists() for files in names.values() for file in files)

    def content(file: str) -> Any:
        found = None if local else tf.io.gfile.stat(file)
        return sha256_of([Path(file)])[0] if found is None else [found.length, found.mtime_nsec]

    digests = [[split, Path(file).name, content(file)] for split, files in names.items() for file in files]
    return digest(digests), [file for files in names.values() for file in files]


def model_of(vocabulary: Any) -> bytes:
    """The content of a vocabulary's SentencePiece model."""
    import tensorflow as tf

    with tf.io.gfile.GFile(vocabulary.sentencepiece_model_file, "rb") as file:
        return file.read()


def sentence_of(error: Exception) -> str:
    """The first line of an error, without a full stop."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "no reason given"
