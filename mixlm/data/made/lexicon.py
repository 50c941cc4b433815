"""The words of the made language: each noun and verb in both numbers, and the determiners that agree with them."""

from collections.abc import Sequence
from dataclasses import dataclass

NUMBERS = ("singular", "plural")


@dataclass(frozen=True)
class Noun:
    """A noun in both numbers, with the reflexive that its singular takes."""

    singular: str
    plural: str
    reflexive: str = "itself"

    def form(self, number: int) -> str:
        """The noun in a number, 0 singular and 1 plural."""
        return (self.singular, self.plural)[number]

    def anaphor(self, number: int) -> str:
        """The reflexive pronoun that refers to it."""
        return (self.reflexive, "themselves")[number]


def _regular(word: str) -> str:
    """The ending -s, which a plural noun and a verb of the third person share."""
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    return word[:-1] + "ies" if word.endswith("y") and word[-2] not in "aeiou" else word + "s"


def _nouns(words: str, reflexive: str) -> tuple[Noun, ...]:
    pairs = [word.split("/") for word in words.split()]
    return tuple(Noun(pair[0], pair[1] if len(pair) > 1 else _regular(pair[0]), reflexive) for pair in pairs)


def _words(words: str) -> tuple[str, ...]:
    return tuple(words.split())


MALE = _nouns("king brother actor monk uncle waiter farmer father boy man/men grandson widower", "himself")
FEMALE = _nouns("queen sister actress nun aunt waitress girl mother woman/women duchess lady widow", "herself")
ANIMALS = _nouns(
    "dog cat horse fox bird rabbit lion mouse/mice goat cow frog wolf/wolves tiger duck snake monkey owl bear", "itself"
)
THINGS = _nouns(
    "table chair lamp book clock box window shelf/shelves door cup basket mirror bottle carpet tower bridge boat wagon "
    "barrel ladder drum painting",
    "itself",
)
ANIMATE = (*MALE, *FEMALE, *ANIMALS)

INTRANSITIVE = _words(
    "sleep run laugh sing arrive smile wait fall dance cough swim jump whisper tremble wander rest shout vanish"
)
TRANSITIVE = _words(
    "see follow help admire watch find chase hear know like remember trust avoid greet visit touch push carry"
)
REFLEXIVE = _words("help admire hide wash praise hurt trust protect defend introduce")
STATIVE = _words("stand lie shine lean wobble gleam creak remain")  # what a thing does
ADJECTIVES = _words(
    "old small tall young happy quiet red heavy strange brave clever grey tired famous gentle lazy rich hungry"
)
PREPOSITIONS = ("near", "behind", "beside", "with", "above", "by")
ADVERBS = ("today", "often", "again", "at night", "in the morning", "quietly", "every summer", "there")
NEUTRAL = ("the",)
DETERMINERS = (("this", "that", "every", "each", "a"), ("these", "those", "many", "two", "several"))


def verb(stem: str, number: int) -> str:
    """A verb in the present tense of the third person, 0 singular and 1 plural."""
    return stem if number else _regular(stem)


def weights(words: Sequence[object]) -> list[float]:
    """Zipf's law with an offset: rank r weighs 1 / (r + 3), so that words are common and rare as in text."""
    return [1 / (rank + 4) for rank in range(len(words))]
