"""A `tokenizer.json` of the `tokenizers` library, such as byte-level BPE."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from mixlm.data.sources.base import digest
from mixlm.data.vocabularies.base import SPACE, Vocabulary, encode_marked, special_ids
from mixlm.data.vocabularies.special_tokens import NAMES, SENTINEL, Held, Layout
from mixlm.errors import UserError


class TokenizerJson(Vocabulary):
    """A tokenizer of the `tokenizers` library, under which every text is plain text.

    Truncation, padding, dropout and the post-processor of the file are left out, and its special tokens match no text.
    """

    def __init__(self, content: bytes, given: Layout, path: Path):
        parsed = {"added_tokens": []} | json.loads(content)
        special = special_ids(given.token_ids)
        there = {given.here(token) for token in special if given.here(token) < _size(parsed)}
        self._tokenizer = _tokenizer(_as_plain_text(parsed, there), path)
        self.token_ids = given.token_ids
        self.path = path
        self.fingerprint = digest("tokenizers", hashlib.sha256(content).hexdigest(), asdict(given.token_ids))
        self.given = given
        self._names = _names(parsed, given)
        self._special = special | {
            given.here(added["id"]) for added in parsed["added_tokens"] if added["special"] or added["id"] in there
        }
        self._bytes = byte_alphabet() if _is_byte_level(parsed) else None
        self._added = {given.here(added["id"]) for added in parsed["added_tokens"]}
        probe = self._tokenizer.encode("x", add_special_tokens=False).ids
        # A tokenizer that puts a space before a text, of which its decoder knows nothing.
        self._prefixed = self._bytes is not None and self._tokenizer.decode(probe).startswith(" ")

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without EOS: `<extra_id_0>`, `<mask>` or `</s>` in it is text like any other."""
        return self._here(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_with_sentinels(self, text: str) -> list[int]:
        """As `encode`, and `<extra_id_k>` becomes that sentinel."""
        return encode_marked(text, self)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, as `encode` gives them, computed on all cores."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._here(each.ids) for each in found]

    def encode_with_bytes(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of `text`, as `encode` gives them, and how many UTF-8 bytes of `text` each covers.

        Those of byte-level tokens are their own bytes, where these spell the text; else each token ends where the
        library says, and of a character in several tokens the first has all bytes.
        """
        found = self._tokenizer.encode(text, add_special_tokens=False)
        tokens = self._here(found.ids)
        if self._bytes is not None:
            spelt = [self._spelt(token) for token in tokens]
            sizes = [len(part) for part in spelt]
            whole = b"".join(spelt)
            if whole == text.encode():
                return tokens, sizes
            if whole == b" " + text.encode():
                return tokens, [sizes[0] - 1, *sizes[1:]]
        return tokens, _sizes_by_ends([end for _, end in found.offsets], text)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Readable text: the file's own decoder for text, and special ids by name after a space."""
        text = ""
        for special, group in groupby(map(int, ids), key=self._is_special):
            run = list(group)
            if special:
                text += "".join(" " + self._piece(token) for token in run) if text else " ".join(map(self._piece, run))
            else:
                said = self._tokenizer.decode(self._here(run), skip_special_tokens=False)
                # Some decoders strip the space before what they take for a whole text.
                opens = text and self._piece(run[0]).startswith((SPACE, " ")) and not said.startswith(" ")
                text += (" " if opens else "") + said
        return text.removeprefix(" ") if self._prefixed else text

    def pieces(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """The text of each byte-level token, or the file's piece, with U+2581 where `decode` leaves a space out."""
        return [self._piece(int(token)) for token in ids]

    def _piece(self, token: int) -> str:
        name = self._names.get(token, f"<{token}>")
        if self._bytes is None or self._is_special(token):
            return name
        text = self._spelt(token).decode("utf-8", "replace")
        return SPACE + text[1:] if self._prefixed and text.startswith(" ") else text

    def _spelt(self, token: int) -> bytes:
        """The bytes of a byte-level token; an added token stands for its own name."""
        name = self._names[token]
        if self._bytes is None or token in self._added:
            return name.encode()
        return bytes(self._bytes[character] for character in name)

    def _is_special(self, token: int) -> bool:
        return token in self._special or token not in self._names

    def _here(self, tokens: list[int]) -> list[int]:
        return [self.given.here(token) for token in tokens] if self.given.zero else tokens


def held_by(parsed: Any, where: str) -> Held:
    """What a `tokenizer.json` holds; UserError, with `where`, for one that loses what it does not know."""
    pieces, added = _pieces(parsed["model"]), {each["content"]: each for each in parsed["added_tokens"]}
    ids = pieces | {name: each["id"] for name, each in added.items()}
    model, alphabet = parsed["model"], byte_alphabet() if _is_byte_level(parsed) else {}
    all_bytes = set(alphabet) or {f"<0x{byte:02X}>" for byte in range(256)}
    lacks = len(all_bytes - pieces.keys()) if alphabet or model.get("byte_fallback") else 256
    unknown = model.get("unk_id", ids.get(model.get("unk_token")))
    if unknown is None and lacks:
        raise UserError(
            f"{where} has no unknown token and lacks {lacks} of the 256 bytes, so text would be lost: train it with"
            " pre_tokenizers.ByteLevel.alphabet() as its initial alphabet."
        )
    roles = {name for names in NAMES.values() for name in names}
    zero = next((name for name, token in ids.items() if token == 0), "")
    no_text = zero in roles or (zero in added and added[zero]["special"]) or bool(SENTINEL.fullmatch(zero))
    zero_is_text = (unknown == 0 and lacks > 0) or (unknown != 0 and not no_text)
    named = {name: token for name, token in ids.items() if name in roles or SENTINEL.fullmatch(name)}
    return Held(_size(parsed), named, zero_is_text, unknown)


def _size(parsed: Any) -> int:
    tokens = [*_pieces(parsed["model"]).values(), *(added["id"] for added in parsed["added_tokens"])]
    return max(tokens, default=-1) + 1


def _pieces(model: Any) -> dict[str, int]:
    """The ids of a model's pieces; Unigram lists its pieces with their scores."""
    vocab = model["vocab"]
    return {piece: token for token, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab


def _names(parsed: Any, given: Layout) -> dict[int, str]:
    ids = _pieces(parsed["model"]) | {added["content"]: added["id"] for added in parsed["added_tokens"]}
    ids |= {name: token for token, name in enumerate(given.appended, _size(parsed))}
    return {given.here(token): name for name, token in ids.items()}


def _is_byte_level(parsed: Any) -> bool:
    def kinds(part: Any) -> set[str]:
        if not isinstance(part, dict):
            return set()
        inner = [each for name in ("pretokenizers", "decoders") for each in part.get(name, ())]
        return {part.get("type", "")}.union(*map(kinds, inner))

    return "ByteLevel" in kinds(parsed.get("pre_tokenizer")) | kinds(parsed.get("decoder"))


def byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE: itself where it is printed, else U+0100 and up."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _as_plain_text(parsed: Any, special: set[int]) -> Any:
    """The file without its frame, whose `special` ids match no text; all ids stay what they are."""
    model = parsed["model"]
    pieces = {token: piece for piece, token in _pieces(model).items()}
    vocab = model["vocab"]
    for token in special & pieces.keys():
        # No text has this name: pre-tokenizers leave no blank before text in a piece.
        hidden = f" {token}"
        if isinstance(vocab, list):
            vocab[token] = [hidden, vocab[token][1]]
        else:
            del vocab[pieces[token]]
            vocab[hidden] = token
    added = [
        each | {"special": each["special"] or each["id"] in special}
        for each in parsed["added_tokens"]
        if each["id"] not in special or each["id"] not in pieces
    ]
    frame = {"truncation": None, "padding": None, "post_processor": None}
    return parsed | frame | {"added_tokens": added, "model": model | {"dropout": None} if "dropout" in model else model}


def _tokenizer(parsed: Any, path: Path) -> Any:
    tokenizers = import_tokenizers()
    try:
        found = tokenizers.Tokenizer.from_str(json.dumps(parsed))
    except Exception as error:  # the library raises nothing more special
        reason = str(error).splitlines()[0]
        raise UserError(f"{str(path)!r} is no tokenizer that the tokenizers library reads: {reason}.") from None
    found.encode_special_tokens = True  # names of special tokens in a text are text
    return found


def import_tokenizers() -> Any:
    """The `tokenizers` library; UserError where it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise UserError("A tokenizer.json needs the library tokenizers: pip install 'mixlm[data]'.") from None
    return tokenizers


def _sizes_by_ends(ends: Sequence[int], text: str) -> list[int]:
    """Bytes between ends that count characters; the last token takes what is left."""
    if not ends:
        return []
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    lengths = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    places = np.concatenate([[0], np.cumsum(lengths)])
    found = np.maximum.accumulate(places[[0, *ends[:-1], len(codes)]])
    return np.diff(found).tolist()
