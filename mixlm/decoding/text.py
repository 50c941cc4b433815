"""Decoded token ids as text: spans by sentinel, text up to EOS, prompts with their spans filled in."""

from collections.abc import Sequence
from typing import Any

from mixlm.tokens import TokenIds


def spans(tokens: Sequence[int], ids: TokenIds) -> dict[int, list[int]]:
    """The tokens after each sentinel, by the sentinel's number, up to EOS."""
    found: dict[int, list[int]] = {}
    current: list[int] = []
    for token in tokens:
        if token in (ids.eos, ids.pad):
            break
        number = ids.first_sentinel - token
        if 0 <= number < ids.sentinels:
            current = found.setdefault(number, [])
        else:
            current.append(token)
    return found


def until_eos(tokens: Sequence[int], ids: TokenIds) -> list[int]:
    """The tokens before EOS, without padding."""
    kept: list[int] = []
    for token in tokens:
        if token == ids.eos:
            break
        kept += [token] * (token != ids.pad)
    return kept


def partial_text(vocabulary: Any, tokens: Sequence[int], ids: TokenIds) -> str:
    """A state of a diffusion text, `_` where it is masked; padding is left out, and EOS is shown."""
    kept = [token for token in tokens if token != ids.pad]
    mask = vocabulary.pieces([ids.mask])[0]
    return vocabulary.decode(kept).replace(mask, "_")


def token_texts(vocabulary: Any, tokens: Sequence[int], ids: TokenIds) -> list[str]:
    """The text of each token of a state: `_` for a mask, a middle dot for padding, U+2423 for a lone space."""
    special = {ids.mask: "_", ids.pad: "\u00b7"}
    pieces = zip(tokens, vocabulary.pieces(tokens))
    return [special.get(token, piece.replace("\u2581", " ").strip() or "\u2423") for token, piece in pieces]


def fill_prompt(prompt: Sequence[int], fills: dict[int, list[int]], ids: TokenIds) -> list[int]:
    """The prompt with each sentinel replaced by its fill; a sentinel without one stays."""
    text: list[int] = []
    for token in prompt:
        text += fills.get(ids.first_sentinel - token, [token])
    return text
