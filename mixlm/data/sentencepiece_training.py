"""SentencePiece vocabularies trained on a task's own train split, and cached."""

import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

from mixlm.errors import UserError

# Ours: enough text for a stable vocabulary of tens of thousands of pieces, and 8 s of training on two cores.
TRAINING_CHARACTERS = 16_000_000


# Ours: SentencePiece skips sentences over its limit in bytes; a chunk of 2,000 characters has at most 8,000.
SENTENCE_CHARACTERS, SENTENCE_BYTES = 2_000, 8_192


# SentencePiece sums its expected counts per thread: a fixed number of threads gives the same model everywhere.
THREADS = 2


# SentencePiece passes over the names of control pieces in its training text, so the characters of one that only stand
# there would be unknown. In two sentences it is text.
_NAMES = re.compile(r"(?<=<)(?=(?:pad|/s|unk|s|mask)>)")


def training_sentences(documents: Iterable[str], limit: int = TRAINING_CHARACTERS) -> list[str]:
    """Lines of at most 2,000 characters, thinned evenly to at most about `limit` characters in all."""
    kept: list[str] = []
    stride, size = 1, 0
    for position, sentence in enumerate(_sentences(documents)):
        if position % stride == 0:
            kept.append(sentence)
            size += len(sentence)
        if size > limit and len(kept) > 1:
            kept, stride = kept[::2], stride * 2
            size = sum(map(len, kept))
    return kept


def _sentences(documents: Iterable[str]) -> Iterator[str]:
    chunk = re.compile(rf".{{1,{SENTENCE_CHARACTERS}}}(?:\s|$)|.{{1,{SENTENCE_CHARACTERS}}}")
    for document in documents:
        for line in document.split("\n"):
            for part in _NAMES.split(line):
                yield from filter(None, map(str.strip, chunk.findall(part)))


def train(spec: Any, documents: Iterable[str]) -> bytes:
    """Trains a SentencePiece model of the given specification on documents, and returns it serialised."""
    from sentencepiece import SentencePieceTrainer

    sentences = training_sentences(documents)
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type=spec.model_type,
            vocab_size=spec.vocab_size - spec.sentinels,
            character_coverage=spec.character_coverage,
            max_sentence_length=SENTENCE_BYTES,
            num_threads=THREADS,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=3,
            control_symbols=["<mask>"],
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(_why_training_failed(spec, str(error), sum(map(len, sentences)))) from None
    return model.getvalue()


def _why_training_failed(spec: Any, message: str, characters: int) -> str:
    text = f"The training text ({characters:,} characters)"
    if found := re.search(r"set it to a value <= (\d+)", message):
        largest = int(found[1]) + spec.sentinels
        return f"{text} is too small for VOCAB_SIZE = {spec.vocab_size}; set VOCAB_SIZE to at most {largest}."
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        smallest = int(found[1]) + spec.sentinels
        return (
            f"{text} has more different characters than VOCAB_SIZE = {spec.vocab_size} can hold;"
            f" set VOCAB_SIZE to at least {smallest}."
        )
    return f"{text} could not train a vocabulary of {spec.vocab_size} ids; SentencePiece says: {message.strip()}"
