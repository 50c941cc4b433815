"""A SentencePiece model as the `tokenizer.json` of a fast tokenizer, which cuts text into the same ids."""

import json
import re
from collections.abc import Mapping
from typing import Any

from mixlm import files
from mixlm.data.plain_text import parse_model
from mixlm.data.vocabularies.base import SPACE, Vocabulary, special_ids
from mixlm.data.vocabularies.byte import OFFSET, SIZE
from mixlm.data.vocabularies.sentencepiece import SentencePieceVocabulary
from mixlm.data.vocabularies.tokenizer_json import TokenizerJson, byte_alphabet, import_tokenizers
from mixlm.errors import UserError
from mixlm.tokens import TokenIds

UNIGRAM, BPE = 1, 2  # SentencePiece's numbers of model types
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # and of pieces
SPACES = f"{SPACE}\u061c\u1680\u200b\u200c\u200e\u200f\u2028\u2029\ufeff\ufffd"  # to nmt_nfkc, but for controls
TILDE, STAND_IN = "\uff5e", "\ufdd0"  # nmt_nfkc keeps the wide tilde; the other is no character


def tokenizer_files(vocabulary: Vocabulary, decoder: bool) -> dict[str, bytes]:
    """The content of `tokenizer.json` and `tokenizer_config.json` by file name.

    The names of special ids, such as `<mask>` and `<extra_id_0>`, are special wherever they stand in a text, as
    everywhere in transformers; `Vocabulary.encode` alone reads them as text. With special tokens a text of a `decoder`
    begins with BOS, unless that is padding, and one of an encoder-decoder ends in EOS, as T5's. A `tokenizer.json` is
    kept as it is, with the special tokens that were appended to it. Bytes have the ids of transformers' ByT5Tokenizer.
    """
    ids, names = vocabulary.token_ids, vocabulary.pieces(range(vocabulary.token_ids.vocab_size))
    config = as_json(_config(names, ids))
    if isinstance(vocabulary, TokenizerJson):
        beside = vocabulary.path.with_name("tokenizer_config.json")
        if beside.exists():
            config = files.read_bytes(beside)
        return {"tokenizer.json": _extended(vocabulary), "tokenizer_config.json": config}
    if isinstance(vocabulary, SentencePieceVocabulary):
        tokenizer = fast_tokenizer(parse_model(files.read_bytes(vocabulary.path)), names, ids)
    else:
        tokenizer = byte_tokenizer(names)
    # The space before a sentinel belongs to its piece, where there are pieces.
    _add_special(tokenizer, names, ids, lstrip=isinstance(vocabulary, SentencePieceVocabulary))
    _add_template(tokenizer, names, *frame(vocabulary, decoder))
    return {"tokenizer.json": tokenizer.to_str(pretty=True).encode(), "tokenizer_config.json": config}


def frame(vocabulary: Vocabulary, decoder: bool = True) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special ids that the exported tokenizer puts before a text and after it; a `tokenizer.json` has its own."""
    ids = vocabulary.token_ids
    if not isinstance(vocabulary, TokenizerJson):
        return (ids.bos,) if decoder and ids.bos != ids.pad else (), () if decoder else (ids.eos,)
    found = import_tokenizers().Tokenizer.from_str(files.read_text(vocabulary.path)).encode("x")
    around = [vocabulary.given.here(token) for token in found.ids]
    first = found.special_tokens_mask.index(0)
    last = len(around) - found.special_tokens_mask[::-1].index(0)
    return tuple(around[:first]), tuple(around[last:])


def as_json(content: Mapping[str, Any]) -> bytes:
    """JSON as transformers writes it, for people to read."""
    return f"{json.dumps(content, indent=2, ensure_ascii=False)}\n".encode()


def _config(names: list[str], ids: TokenIds) -> dict[str, Any]:
    config: dict[str, Any] = {
        "additional_special_tokens": [names[ids.vocab_size - 1 - k] for k in range(ids.sentinels)],
        "clean_up_tokenization_spaces": False,
        "eos_token": names[ids.eos],
        "pad_token": names[ids.pad],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": names[ids.unk],
    }
    config |= {"mask_token": names[ids.mask]} if ids.mask < ids.vocab_size - ids.sentinels else {}
    config |= {"bos_token": names[ids.bos]} if ids.bos != ids.pad else {}
    return dict(sorted(config.items()))


def _extended(vocabulary: TokenizerJson) -> bytes:
    """The file with what was appended to it as special tokens, under the file's own ids."""
    content, layout = files.read_bytes(vocabulary.path), vocabulary.given
    if not layout.appended:
        return content
    parsed = json.loads(content)
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    first = vocabulary.token_ids.vocab_size - len(layout.appended)
    added = [{"id": token, "content": name, **plain} for token, name in enumerate(layout.appended, first)]
    return as_json(parsed | {"added_tokens": [*parsed.get("added_tokens", ()), *added]})


def byte_tokenizer(names: list[str]) -> Any:
    """A `tokenizers.Tokenizer` whose tokens are bytes; `names` has the special ids around them by name."""
    tokenizers = import_tokenizers()
    special = {name: token for token, name in enumerate(names) if not OFFSET <= token < SIZE}
    vocab = special | {character: byte + OFFSET for character, byte in byte_alphabet().items()}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def fast_tokenizer(proto: Any, names: list[str], ids: TokenIds) -> Any:
    """A `tokenizers.Tokenizer` with the model's pieces, scores and normalisation."""
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    except ImportError:
        raise UserError("A tokenizer for transformers needs its library: pip install 'mixlm[hf]'.") from None
    kind, fallback = proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback
    scores = [piece.score for piece in proto.pieces[: len(names)]]
    scores += [0.0] * (len(names) - len(scores))
    model: Any
    if kind == UNIGRAM:
        model = models.Unigram(list(zip(names, scores)), ids.unk, byte_fallback=fallback)
    elif kind == BPE:
        model = models.BPE(
            {name: token for token, name in enumerate(names)},
            merges(proto),
            unk_token=names[ids.unk],
            fuse_unk=True,
            byte_fallback=fallback,
        )
    else:
        raise UserError("A SentencePiece model of words or characters has no fast tokenizer: train unigram or bpe.")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(normalisation(proto.normalizer_spec))
    # What normalisation makes a special name of, such as wide letters, is text: no piece is found across the cut.
    cut: list[Any] = [pre_tokenizers.Split(Regex(inside_of_names(names, ids)), "isolated")]
    if proto.normalizer_spec.add_dummy_prefix:
        # The text's first word alone has the space before it; what follows a sentinel has its own.
        cut.insert(0, pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    steps = [decoders.Replace(SPACE, " "), *([decoders.ByteFallback()] if fallback else []), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1, right=0)])
    return tokenizer


def inside_of_names(names: list[str], ids: TokenIds) -> str:
    """A regular expression of the place behind the opening bracket of each special name."""
    found = {re.sub(r"\d+", r"\\d+", re.escape(names[token])) for token in special_ids(ids) | {ids.unk}}
    parts = [re.match(r"((?:\\?\W)+)(\w.*)", name) for name in sorted(found)]
    return "|".join(f"(?<={part[1]})(?={part[2]})" for part in parts if part) or r"\z\A"


def normalisation(spec: Any) -> list[Any]:
    """SentencePiece's normalisation: its table of characters, then what it does to spaces.

    The library looks into the table one grapheme at a time, takes the shortest entry and drops what follows it, where
    SentencePiece takes the longest and goes on. So text is composed first where the table does that (NFKC), and what
    else can begin a grapheme and is replaced, by a space, is replaced before.
    """
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if "nfkc" in spec.name:
        steps += [normalizers.Replace(TILDE, STAND_IN), normalizers.NFKC(), normalizers.Replace(STAND_IN, TILDE)]
    if spec.name.startswith("nmt"):
        steps.append(normalizers.Replace(Regex(f"[{SPACES}]"), " "))
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(f"[ {SPACE}]+\\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
        if not spec.add_dummy_prefix:
            steps.append(normalizers.Replace(Regex(r"\A +"), ""))
    elif spec.add_dummy_prefix:
        steps.append(normalizers.Replace(Regex(r"\A "), "  "))  # Metaspace prepends nothing to a space
    if spec.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE))
    return steps


def merges(proto: Any) -> list[tuple[str, str]]:
    """The merges that make the pieces of a BPE model, those of the best score first."""
    normal = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    found = []
    for place, (piece, score) in enumerate(normal.items()):
        cuts = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        found += [(-score, place, left, right) for left, right in cuts if left in normal and right in normal]
    return [(left, right) for _, _, left, right in sorted(found)]


def _add_special(tokenizer: Any, names: list[str], ids: TokenIds, lstrip: bool) -> None:
    from tokenizers import AddedToken

    sentinels = range(ids.vocab_size - ids.sentinels, ids.vocab_size)
    plain = sorted({ids.pad, ids.eos, ids.unk, ids.bos, ids.mask} - set(sentinels))
    tokenizer.add_special_tokens([AddedToken(names[token], normalized=False, special=True) for token in plain])
    marks = [AddedToken(names[token], lstrip=lstrip, normalized=False, special=True) for token in sentinels]
    tokenizer.add_special_tokens(marks)


def _add_template(tokenizer: Any, names: list[str], before: tuple[int, ...], after: tuple[int, ...]) -> None:
    """The special tokens that `add_special_tokens` puts around one text, and around each of two."""
    from tokenizers import processors

    first, last = ([names[token] for token in part] for part in (before, after))
    single = [*first, "$A", *last]
    special = [(names[token], token) for token in (*before, *after)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=[*single, "$B", *last], special_tokens=special
    )
