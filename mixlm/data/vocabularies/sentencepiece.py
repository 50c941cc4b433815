"""SentencePiece models, unigram and BPE, with byte pieces or without."""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, SupportsIndex

from mixlm.data.plain_text import as_plain_text, parse_model
from mixlm.data.sources.base import digest
from mixlm.data.vocabularies.base import SPACE, Vocabulary, special_ids
from mixlm.data.vocabularies.special_tokens import SENTINEL, Held, Layout
from mixlm.tokens import TokenIds

BYTES = 256


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model with T5's sentinels `<extra_id_k>` as its last ids, `<extra_id_0>` the highest."""

    def __init__(self, model: bytes, token_ids: TokenIds, path: Path, given: Layout | None = None):
        from sentencepiece import SentencePieceProcessor

        proto = parse_model(model)
        # T5's model comes without its sentinels, and in another file with them.
        missing = [f"<extra_id_{k}>" for k in reversed(range(token_ids.vocab_size - len(proto.pieces)))]
        _extend(proto, given or Layout(token_ids, tuple(missing)))
        self.token_ids = token_ids
        self.path = path
        self.fingerprint = digest(hashlib.sha256(model).hexdigest(), asdict(token_ids))
        # Two readings of text: `_processor` takes all of it as plain text, `_spans` knows sentinels, and all names.
        self._spans = SentencePieceProcessor(model_proto=proto.SerializeToString())
        self._processor = SentencePieceProcessor(model_proto=as_plain_text(proto, special_ids(token_ids)))

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without EOS: `<extra_id_0>`, `<mask>` or `</s>` in it is text like any other."""
        return self._processor.encode(text)

    def encode_with_sentinels(self, text: str) -> list[int]:
        """Token ids of a prompt or input whose spans a user has marked: `<extra_id_k>` becomes that sentinel."""
        return self._spans.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, as `encode` gives them, computed on all cores."""
        return self._processor.encode(list(texts), num_threads=-1)

    def encode_with_bytes(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of `text`, as `encode` gives them, and how many UTF-8 bytes of `text` each covers.

        The bytes are those of the text as it is given, before SentencePiece normalises it, and add up to it where there
        is a token: blanks that are stripped count with the first or the last token. A run of unknown characters is one
        token of all its bytes, and of a character spelt in byte pieces the last has them all.
        """
        from sentencepiece import sentencepiece_pb2

        text_proto: Any = getattr(sentencepiece_pb2, "SentencePieceText")  # noqa: B009 (generated code has no types)
        # This form alone has its offsets in bytes; the others count characters.
        pieces = text_proto.FromString(self._processor.encode(text, out_type="serialized_proto")).pieces
        ends = [0, *(piece.end for piece in pieces[:-1]), len(text.encode())]
        sizes = [end - start for start, end in itertools.pairwise(ends)] if pieces else []
        return [piece.id for piece in pieces], sizes

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Readable text: sentinels as `<extra_id_k>`, the other special ids by name, the text between them spaced."""
        text = ""
        for special, group in itertools.groupby(map(int, ids), key=self._is_special):
            run = list(group)
            if special:
                text += "".join(" " + piece for piece in self.pieces(run))
            else:
                opens_a_word = self._spans.id_to_piece(run[0]).startswith(SPACE)
                text += (" " if opens_a_word else "") + self._spans.decode(run)
        return text.strip()

    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """The piece of each id, with U+2581 where a space precedes it; an id outside of the vocabulary as `<id>`."""
        return [self._piece(int(token)) for token in ids]

    def _piece(self, token: int) -> str:
        if not 0 <= token < self.token_ids.vocab_size:
            return f"<{token}>"
        piece = self._spans.id_to_piece(token)
        return piece if token < self._num_pieces else piece.removeprefix(SPACE)

    @property
    def _num_pieces(self) -> int:
        return self.token_ids.vocab_size - self.token_ids.sentinels

    def _is_special(self, token: int) -> bool:
        if not 0 <= token < self._num_pieces:
            return True
        return self._spans.is_control(token) or self._spans.is_unknown(token)


def _extend(proto: Any, given: Layout) -> None:
    """Appends the names of a layout as pieces, and lets id 0 and padding change places where the layout does."""
    kinds = type(proto).SentencePiece
    for name in given.appended:
        if SENTINEL.fullmatch(name):
            proto.pieces.add(piece=f"{SPACE}{name}", score=0.0, type=kinds.USER_DEFINED)
        else:
            proto.pieces.add(piece=name, score=0.0, type=kinds.CONTROL)
    if given.zero:
        first = kinds()
        first.CopyFrom(proto.pieces[0])
        proto.pieces[0].CopyFrom(proto.pieces[given.zero])
        proto.pieces[given.zero].CopyFrom(first)


def held_by(proto: Any) -> Held:
    """What a SentencePiece model holds: a piece of type UNKNOWN is text unless there are pieces of all bytes."""
    kinds = type(proto).SentencePiece
    types = [piece.type for piece in proto.pieces]
    spec = proto.trainer_spec
    names = {piece.piece: token for token, piece in enumerate(proto.pieces)}
    # The model names its own special pieces, whatever they are called.
    for said, name in ((spec.pad_piece, "<pad>"), (spec.eos_piece, "</s>"), (spec.bos_piece, "<s>")):
        if said in names and types[names[said]] == kinds.CONTROL:
            names[name] = names[said]
    text = [kinds.NORMAL, kinds.BYTE, kinds.USER_DEFINED]
    if types.count(kinds.BYTE) < BYTES:
        text.append(kinds.UNKNOWN)
    unknown = types.index(kinds.UNKNOWN) if kinds.UNKNOWN in types else None
    return Held(len(types), names, types[0] in text, unknown)
