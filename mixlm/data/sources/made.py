"""The made language as a source, of documents and of pairs, from a seed and with nothing to download."""

from collections.abc import Iterator
from dataclasses import dataclass

from mixlm.data.made.questions import KINDS, pairs
from mixlm.data.made.sentences import Grammar, is_held_out, written
from mixlm.data.sources.base import check_split, digest
from mixlm.errors import UserError, nearest

# To be raised whenever the same seed would draw other text, so that a stale store is not used.
LANGUAGE_VERSION = 1
SENTENCES = 20  # of a document
HELD_OUT_DOCUMENTS = 0.05  # of the training documents' number


@dataclass(frozen=True)
class MadeLanguage:
    """`size` training documents of 20 sentences each, and a twentieth as many for validation.

    A document is a function of seed, split and number. Sentences that `is_held_out` stand in none of them: minimal
    pairs are made of those.
    """

    size: int = 4000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"MadeLanguage.size is a whole number of documents above 0, not {self.size}.")

    def documents(self, split: str) -> Iterator[str]:
        """The documents of a split in the order of their numbers."""
        check_split(split)
        count = self.size if split == "train" else max(round(self.size * HELD_OUT_DOCUMENTS), 1)
        for number in range(count):
            yield document(self.seed, split, number)

    def fingerprint(self) -> str:
        """SHA-256 over what the text is a function of."""
        return digest("made language", LANGUAGE_VERSION, self.size, self.seed)


def document(seed: int, split: str, number: int) -> str:
    """The text of one document."""
    grammar = Grammar("text", seed, split, number)
    found: list[str] = []
    while len(found) < SENTENCES:
        text = written(grammar.sentence().words)
        if not is_held_out(text):
            found.append(text)
    return " ".join(found)


@dataclass(frozen=True)
class MadePairs:
    """`size` training pairs of a kind over the made language, and a tenth as many for validation."""

    kind: str
    size: int = 20000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(
                f"MadePairs.kind is one of {', '.join(KINDS)}, not {self.kind!r}.{nearest(self.kind, KINDS)}"
            )
        if self.size < 1:
            raise UserError(f"MadePairs.size is a whole number of pairs above 0, not {self.size}.")

    def pairs(self, split: str) -> Iterator[tuple[str, str]]:
        """The pairs of a split."""
        count = self.size if check_split(split) == "train" else max(self.size // 10, 1)
        return pairs(self.kind, self.seed, split, count)

    def fingerprint(self) -> str:
        """SHA-256 over what the pairs are a function of."""
        return digest("made pairs", LANGUAGE_VERSION, self.kind, self.size, self.seed)


@dataclass(frozen=True)
class MadePairsText:
    """The pairs of all kinds as text, inputs and targets in a line: what one vocabulary for all is trained on."""

    size: int = 20000
    seed: int = 0

    def documents(self, split: str) -> Iterator[str]:
        """The pairs of a split, kind after kind."""
        for kind in KINDS:
            for inputs, targets in MadePairs(kind, self.size, self.seed).pairs(split):
                yield f"{inputs} {targets}"

    def fingerprint(self) -> str:
        """SHA-256 over what the text is a function of."""
        return digest("text of made pairs", LANGUAGE_VERSION, self.size, self.seed)
