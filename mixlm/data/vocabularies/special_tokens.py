"""Special tokens of a vocabulary file: those that it has by name, and those that are appended behind its ids."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mixlm.data.vocabularies.base import SPACE
from mixlm.errors import UserError
from mixlm.tokens import TokenIds

# The names of a role, the first that a file has; the first of all is the one that is appended.
NAMES = {
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "eos": ("</s>", "[SEP]", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    "bos": ("<s>", "[CLS]", "<bos>", "<|begin_of_text|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
    "unk": ("<unk>", "[UNK]"),
}
SENTINEL = re.compile(rf"{SPACE}?<extra_id_(\d+)>")


@dataclass(frozen=True)
class Held:
    """A vocabulary file: how many ids it has, its special tokens by name, and `zero_is_text`, if a text may have id 0.

    `unk` is the id of what it does not know, where it has one that no name says.
    """

    size: int
    names: Mapping[str, int]
    zero_is_text: bool
    unk: int | None = None


@dataclass(frozen=True)
class Layout:
    """The special ids, the names `appended` behind the file's ids, and the id that the file's id 0 has (`zero`)."""

    token_ids: TokenIds
    appended: tuple[str, ...] = ()
    zero: int = 0

    def here(self, token: int) -> int:
        """The id of a file's id, and the other way round: at most id 0 and padding have changed places."""
        return {0: self.zero, self.zero: 0}.get(token, token)


def layout(held: Held, sentinels: int, where: str) -> Layout:
    """Special ids by name, and what is missing behind the file's ids in this order: pad, eos, bos, mask, sentinels.

    Padding is id 0, as rows are filled up with zeros. Where the file's id 0 is text, EOS, BOS or mask, that token and
    `<pad>` change places; where it is a token that no text has, such as `<unk>` beside byte pieces, it is the padding.
    A file whose last ids are sentinels in T5's order has T5's special ids: without `<s>` BOS is padding, without
    `<mask>` the mask is the last sentinel. Raises UserError, with `where`, for sentinels in another order.
    """
    roles = {role: _first(held.names, names) for role, names in NAMES.items()}
    unk = held.unk if held.unk is not None else roles["unk"]
    own = _own_sentinels(held, where)
    if own:
        roles["bos"] = _else(roles["bos"], _else(roles["pad"], 0))
        roles["mask"] = _else(roles["mask"], held.size - own)
    appended: list[str] = []
    in_use = {roles[role] for role in ("eos", "bos", "mask")} - {roles["pad"]}
    if held.zero_is_text or 0 in in_use:
        if roles["pad"] is None:
            roles["pad"] = _appended(appended, held, "pad")
        zero = roles["pad"] or 0
    else:
        roles["pad"], zero = 0, 0
    for role in ("eos", "bos", "mask"):
        if roles[role] is None:
            roles[role] = _appended(appended, held, role)
    if own and appended:
        raise UserError(f"{where} ends in sentinels and has no {' or '.join(appended)}, which would come behind them.")
    if not own:
        appended += [f"<extra_id_{k}>" for k in reversed(range(sentinels))]
    moved = {0: zero, zero: 0}
    ids = {role: moved.get(token, token) for role, token in (roles | {"unk": unk}).items() if token is not None}
    ids.setdefault("unk", 0)  # a file that knows every text has no unknown token, and padding stands for it
    return Layout(TokenIds(held.size + len(appended), sentinels=own or sentinels, **ids), tuple(appended), zero)


def _first(names: Mapping[str, int], wanted: tuple[str, ...]) -> int | None:
    return next((names[name] for name in wanted if name in names), None)


def _else(token: int | None, other: int) -> int:
    return other if token is None else token


def _appended(appended: list[str], held: Held, role: str) -> int:
    """Appends the name of a role, and returns its id."""
    appended.append(NAMES[role][0])
    return held.size + len(appended) - 1


def _own_sentinels(held: Held, where: str) -> int:
    """The number of sentinels that a file has; UserError unless they are its last ids, `<extra_id_0>` the very last."""
    found = {int(match[1]): token for name, token in held.names.items() if (match := SENTINEL.fullmatch(name))}
    if found != {k: held.size - 1 - k for k in range(len(found))}:
        raise UserError(
            f"{where} holds {len(found)} sentinels in another order than T5's, in which they are the last ids and"
            " <extra_id_0> is the very last."
        )
    return len(found)
