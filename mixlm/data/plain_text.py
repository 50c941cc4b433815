"""SentencePiece models under which every text is plain text: no string in it becomes a special id."""

from collections.abc import Collection
from typing import Any


def parse_model(model: bytes) -> Any:
    """The proto of a serialised SentencePiece model; raises google.protobuf's DecodeError for other bytes."""
    from sentencepiece import sentencepiece_model_pb2

    return getattr(sentencepiece_model_pb2, "ModelProto").FromString(model)  # noqa: B009 (generated code has no types)


def as_plain_text(proto: Any, special: Collection[int]) -> bytes:
    """The model, serialised, whose pieces with the ids in `special` match no text; all ids stay what they are.

    SentencePiece looks for user-defined pieces, such as T5's sentinels, in every text, before it segments the rest.
    Control pieces are not looked for. Text without such a string gets the same ids: neither kind takes part in the
    segmentation or in the scores of unknown characters.
    """
    plain = type(proto)()
    plain.CopyFrom(proto)
    kinds = type(proto).SentencePiece
    for token, piece in enumerate(plain.pieces):
        if token in special and piece.type in (kinds.NORMAL, kinds.USER_DEFINED):
            # No text has this name: blanks in it are U+2581 before it is segmented.
            piece.piece, piece.type = f" {token}", kinds.CONTROL
    return plain.SerializeToString()
