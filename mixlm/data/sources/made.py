"""The made language as a source of text: documents of sentences from a seed, with nothing to download."""

from collections.abc import Iterator
from dataclasses import dataclass

from mixlm.data.made.sentences import Grammar, is_held_out, written
from mixlm.data.sources.base import check_split, digest
from mixlm.errors import UserError

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
    grammar, found = Grammar("text", seed, split, number), []
    while len(found) < SENTENCES:
        text = written(grammar.sentence().words)
        if not is_held_out(text):
            found.append(text)
    return " ".join(found)
