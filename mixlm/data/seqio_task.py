"""A Task of seqio's registry as it is: the source, the preprocessors and the vocabulary that its module registers."""

import copy
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixlm.data.judged import Criteria, Judged
from mixlm.data.plain_text import as_plain_text, parse_model
from mixlm.data.quiet_tensorflow import import_seqio
from mixlm.data.seqio_registry import definition_of, mixture_parts, model_of, sentence_of, source_of
from mixlm.data.sources.base import check_known_split, check_split, digest
from mixlm.data.store.fingerprint_cache import is_settled, load_record, save_record, sha256_of, stat_key
from mixlm.data.store.journal import Tokenized
from mixlm.data.tasks import TokenBytes, at_numbers
from mixlm.data.user_module import imported
from mixlm.data.vocabulary import SentencePieceFile, Vocabulary, special_ids, write_atomically
from mixlm.errors import UserError, nearest

if TYPE_CHECKING:
    import seqio

# To be raised whenever the same Task would give other tokens, so that a stale store is not used. 1: `<extra_id_0>` in a
# document was the sentinel.
TASK_VERSION = 2


@dataclass(frozen=True)
class SeqioTask:
    """The Task `name` that importing `module`, a module's name or a .py file, registers with seqio.

    A document is its `targets`, or for a supervised Task its `inputs` and then its `targets`; `add_bos` puts BOS in
    front. Its vocabulary must be a SentencePiece model with padding 0 and `sentinels` sentinels, of its own or as
    `extra_ids`. `<extra_id_0>` in a document is plain text; in the examples of a supervised Task it is the sentinel,
    since spans may be marked there. Preprocessors get no sequence length, and seed 0.

    The fingerprint covers the module's own file (a package's: all of its), the seqio version, the vocabulary, and the
    files that a FileDataSource reads, or the record of a TFDS builder. What else the module imports, and what a
    FunctionDataSource reads, may change unseen: clear the cache then, or rename the Task.
    """

    name: str
    module: str = field(repr=False)  # where the Task is defined; what it says has a fingerprint
    train_split: str = "train"
    validation_split: str = "validation"
    sentinels: int = 100
    mask: int | None = None
    bos: int = 0
    add_bos: bool = False

    def fingerprint(self) -> str:
        """SHA-256 over the definition, the files and the settings; where nothing has changed, imports no TensorFlow."""
        facts = self._facts()
        settings = {name: value for name, value in asdict(self).items() if name != "module"}
        definition = definition_of("Task", self.name, self.module)
        return digest(TASK_VERSION, ["seqio", definition], settings, facts["source"], facts["vocabulary"])

    def load_vocabulary(self, cache_dir: Path, log: Callable[[str], object]) -> Vocabulary:
        """The Task's SentencePiece model, of which the cache keeps a copy."""
        model, extra_ids = self._facts()["vocabulary"]
        if extra_ids not in (0, self.sentinels):
            raise UserError(
                f"The vocabulary of the Task {self.name!r} has {extra_ids} extra_ids; set SENTINELS to that."
            )
        path = cache_dir / "vocabularies" / f"seqio-{model[:16]}.model"
        if not path.exists() or sha256_of([path]) != [model]:
            write_atomically(path, model_of(self._vocabulary(self._task())))
        file = SentencePieceFile(str(path), self.sentinels, self.mask, self.bos)
        return file.load(lambda: (), "", cache_dir, log)

    def count(self, split: str) -> int | None:
        """The number of examples that the source reports; preprocessors may make more or fewer of them."""
        return self._task().num_input_examples(self._split(split))

    def tokenized(self, vocabulary: Vocabulary, split: str, first: int = 0) -> Iterator[Tokenized]:
        """The documents as the preprocessors make them; those before `first` are made again, and passed over."""
        task, name = self._reading(vocabulary), self._split(split)
        size, ids = vocabulary.token_ids.vocab_size, vocabulary.token_ids
        begins = [ids.bos] * self.add_bos
        if self.add_bos and ids.bos == ids.pad:
            raise UserError(f"DOCUMENT_BOS needs a BOS of its own, and this vocabulary's is id {ids.bos}, its padding.")
        for example in _examples(task, name, first):
            inputs = example.get("inputs") if "inputs" in task.output_features else None
            features = [feature for feature in (inputs, example["targets"]) if feature is not None]
            tokens = np.concatenate([np.asarray(begins, np.int32), *features]).astype(np.int64)
            if len(tokens) and not 0 <= tokens.min() <= tokens.max() < size:
                raise UserError(f"The Task {self.name!r} makes ids outside of its vocabulary's {size}.")
            texts = [example.get(f"{feature}_pretokenized") for feature in ("inputs", "targets")]
            length = sum(len(text) for text in texts if isinstance(text, bytes))
            yield Tokenized(
                tokens,
                length or len(vocabulary.decode(tokens[len(begins) :]).encode()),
                None if inputs is None else len(begins) + len(inputs),
            )

    def token_bytes(self, vocabulary: Vocabulary, split: str, numbers: Iterable[int]) -> Iterator[TokenBytes]:
        """The documents of these numbers, which rise, with the bytes of each token.

        They are counted where the Task keeps a feature's text as `targets_pretokenized` (as seqio's preprocessors do)
        and its tokens are those of that text, with EOS or without; it ends at a document of which that is not so.
        """
        task, ids = self._reading(vocabulary), vocabulary.token_ids
        names = [name for name in ("inputs", "targets") if name in task.output_features]
        for example in at_numbers(_examples(task, self._split(split), 0), numbers):
            found = [feature_bytes(example, name, vocabulary) for name in names]
            sizes = [size for each in found if each is not None for size in each]
            if None in found:
                return
            tokens = [token for name in names for token in example[name]]
            yield TokenBytes(
                np.asarray([ids.bos] * self.add_bos + tokens, np.int64),
                np.asarray([0] * self.add_bos + sizes, np.int64),
            )

    def criteria(self) -> Criteria:
        """The registered Task's metric_fns and postprocess_fn; UserError for metric_objs, of which there is no call."""
        task = self._task()
        if len(task.metric_objs) > len(task.metric_fns):
            raise UserError(f"The Task {self.name!r} has metric_objs, and evaluation calls metric_fns alone.")
        return Criteria(tuple(task.metric_fns), task.postprocessor)

    def judged(self, vocabulary: Vocabulary, split: str) -> Iterator[Judged]:
        """The examples of a supervised Task, each with all of its features."""
        for example in _examples(self._reading(vocabulary), self._split(split), 0):
            yield Judged(example["inputs"].tolist(), example["targets"].tolist(), example)

    def _reading(self, vocabulary: Vocabulary) -> "seqio.Task":
        """The Task as its documents are read: plain text, unless it is supervised."""
        task = self._task()
        return (
            task if "inputs" in task.output_features else _reading_plain_text(task, special_ids(vocabulary.token_ids))
        )

    def _split(self, split: str) -> str:
        return self.train_split if check_split(split) == "train" else self.validation_split

    def _facts(self) -> dict[str, Any]:
        """The digest of the source, and SHA-256 and extra_ids of the vocabulary; cached with the files they rest on."""
        definition = definition_of("Task", self.name, self.module)
        key = digest("seqio task", self.name, self.train_split, self.validation_split, definition)
        record = load_record(key)
        if isinstance(record, dict) and all(_unchanged(path, then) for path, then in record["files"].items()):
            return record
        task = self._task()
        vocabulary = self._vocabulary(task)
        source, files = source_of(task, (self.train_split, self.validation_split))
        model = hashlib.sha256(model_of(vocabulary)).hexdigest()
        record = {"source": source, "vocabulary": [model, vocabulary.extra_ids]}
        # A folder changes when a file is added to it. What lies in a bucket can only be asked for through TensorFlow.
        paths = [Path(file) for file in (*files, vocabulary.sentencepiece_model_file)]
        if all(path.exists() for path in paths):
            folders = {path.parent for path in paths[:-1]}
            record["files"] = {str(path): stat_key(path) for path in (*paths, *folders)}
            if all(is_settled(record["files"][str(path)]) for path in paths):
                save_record(key, record)
        return record

    def _task(self) -> "seqio.Task":
        """The registered Task with the splits and features that are asked for; imports seqio and TensorFlow."""
        seqio = import_seqio()
        imported(self.module)
        if self.name in seqio.MixtureRegistry.names():
            parts = ", ".join(f"{task} ({rate:g})" for task, rate in mixture_parts(self.name, self.module))
            raise UserError(
                f"{self.name!r} is no Task but a Mixture, of {parts}; give --gin_file=data/seqio_mixture.gin, or name "
                "one of them."
            )
        if self.name not in seqio.TaskRegistry.names():
            close = nearest(self.name, seqio.TaskRegistry.names())
            raise UserError(f"{self.module!r} registers no Task {self.name!r}.{close}")
        task = seqio.TaskRegistry.get(self.name)
        for split in (self.train_split, self.validation_split):
            check_known_split(f"The Task {self.name!r}", split, task.splits)
        if "targets" not in task.output_features:
            raise UserError(f"The Task {self.name!r} has no feature 'targets', only {sorted(task.output_features)}.")
        return task

    def _vocabulary(self, task: "seqio.Task") -> Any:
        seqio = import_seqio()
        found = [
            task.output_features[name].vocabulary for name in ("targets", "inputs") if name in task.output_features
        ]
        if found[0] != found[-1]:
            raise UserError(f"The Task {self.name!r} has one vocabulary for its inputs and another for its targets.")
        kind = type(found[0]).__name__
        if not isinstance(found[0], seqio.SentencePieceVocabulary):
            raise UserError(f"The Task {self.name!r} has a {kind}; only a SentencePieceVocabulary can be trained on.")
        state = found[0].__getstate__()
        if state["_normalizer_spec_overrides"] is not None or not state["_reverse_extra_ids"]:
            raise UserError(
                f"The {kind} of the Task {self.name!r} overrides its model's normalizer, or numbers its extra_ids"
                " upwards, and T5's does neither."
            )
        return found[0]


def _reading_plain_text(task: "seqio.Task", special: Collection[int]) -> "seqio.Task":
    """The Task with vocabularies under which no string in a document becomes one of the `special` ids."""

    def plain(vocabulary: Any) -> Any:
        found = vocabulary._model_context()
        twin = copy.copy(vocabulary)
        model = as_plain_text(parse_model(found.sp_model), special)
        tokenizer = type(found.tokenizer)(model_proto=model)
        twin._model = replace(found, tokenizer=tokenizer, sp_model=model)
        return twin

    features = task.output_features.items()
    kind = import_seqio().SentencePieceVocabulary
    return task.replace(
        output_features={
            name: replace(feature, vocabulary=plain(feature.vocabulary))
            if isinstance(feature.vocabulary, kind)
            else feature
            for name, feature in features
        }
    )


def feature_bytes(example: Mapping[str, Any], name: str, vocabulary: Vocabulary) -> list[int] | None:
    """The bytes of its text that each token of a feature covers, 0 for EOS; None where they cannot be told."""
    text = example.get(f"{name}_pretokenized")
    try:
        tokens, sizes = vocabulary.encode_with_bytes(text.decode() if isinstance(text, bytes) else "")
    except UnicodeDecodeError:
        return None
    feature = list(example[name])
    ends = feature[len(tokens) :]
    if not isinstance(text, bytes) or feature[: len(tokens)] != tokens or set(ends) - {vocabulary.token_ids.eos}:
        return None
    return sizes + [0] * len(ends)


def _examples(task: "seqio.Task", split: str, first: int) -> Iterator[dict[str, Any]]:
    """The preprocessed examples of a split from number `first` on, in the order of the files."""
    try:
        dataset = task.source.get_dataset(split=split, shuffle=False)
        dataset = task.preprocess_precache(dataset, seed=0)
        dataset = task.preprocess_postcache(dataset, sequence_length=None, seed=0)
        for name in task.output_features:
            spec = dataset.element_spec.get(name)
            if name in ("inputs", "targets") and (spec is None or spec.shape.rank != 1 or not spec.dtype.is_integer):
                raise UserError(f"The Task {task.name!r} does not make its feature {name!r} a sequence of token ids.")
        yield from dataset.skip(first).as_numpy_iterator()
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        raise UserError(
            f"The Task {task.name!r} failed in its split {split!r}: {type(error).__name__}: {sentence_of(error)}."
        ) from error


def _unchanged(path: str, then: list[int]) -> bool:
    try:
        return stat_key(Path(path)) == then
    except OSError:
        return False
