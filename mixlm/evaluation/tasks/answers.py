"""Postprocessing of tasks: what metrics compare, made of a target's or a prediction's text, as in seqio."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixlm.errors import UserError, nearest

NO_CLASS = -1  # T5's: of a text that names no class
# Where a completion of HumanEval ends: the next statement that is not indented (arXiv 2107.03374, section 2.2).
ENDS_OF_FUNCTION = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint")


@dataclass(frozen=True)
class Label:
    """The number of the class that a text names, -1 for a text that names none; UserError for such a target."""

    classes: tuple[str, ...]

    def __call__(self, text: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> int:
        """The class of a target or a prediction."""
        name = text.strip()
        if name in self.classes:
            return list(self.classes).index(name)
        if is_target:
            known = ", ".join(map(repr, self.classes))
            raise UserError(f"The target {name!r} is none of the classes {known}.{nearest(name, self.classes)}")
        return NO_CLASS


@dataclass(frozen=True)
class OfGroup:
    """A class with the group that its example is of, for metrics of groups such as `metrics.multirc`."""

    label: Label
    feature: str = "idx/question"

    def __call__(self, text: str, example: Mapping[str, Any], is_target: bool = False) -> dict[str, Any]:
        """`{"value": class}`, and for a target its `group`."""
        found: dict[str, Any] = {"value": self.label(text, example, is_target)}
        return found | {"group": feature_of(example, self.feature)} if is_target else found


def number(text: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> float:
    """The number that a text is, -1 for one that is none, as T5 has it for STS-B."""
    try:
        return float(text)
    except ValueError:
        return -1.0


def all_answers(text: str, example: Mapping[str, Any], is_target: bool = False) -> Any:
    """Every answer of a question, from its feature `answers`; a prediction is its text."""
    return [as_text(answer) for answer in feature_of(example, "answers")] if is_target else text


def mbpp(text: Any, example: Mapping[str, Any], is_target: bool = False) -> Any:
    """MBPP: a target is its tests, `test_setup_code` and `test_list`; a prediction is a program, or a list of them."""
    if not is_target:
        return text
    tests = [as_text(test) for test in feature_of(example, "test_list")]
    return "\n".join([as_text(example.get("test_setup_code", "")), *tests])


def human_eval(text: Any, example: Mapping[str, Any], is_target: bool = False) -> Any:
    """HumanEval: a target is `test` and a call of `check`; a prediction is `prompt` and its completion, or a list.

    A completion ends where its function does.
    """
    if is_target:
        return f"{as_text(feature_of(example, 'test'))}\ncheck({as_text(feature_of(example, 'entry_point'))})\n"
    if not isinstance(text, str):
        return [human_eval(each, example) for each in text]
    end = min((place for place in map(text.find, ENDS_OF_FUNCTION) if place >= 0), default=len(text))
    # A tokenizer may drop the blanks that a text begins with.
    blanks = "" if text[:1].isspace() else "    "
    return as_text(feature_of(example, "prompt")) + blanks + text[:end]


def feature_of(example: Mapping[str, Any], name: str) -> Any:
    """A feature of an example; UserError that names those that it has."""
    if name not in example:
        raise UserError(f"An example has no feature {name!r}, it has {', '.join(example)}.{nearest(name, example)}")
    return example[name]


def as_text(value: Any) -> str:
    """A text as it is, or bytes of UTF-8, as TensorFlow has them."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def texts_of(said: Any) -> Sequence[str]:
    """The texts of a prediction: itself, or the list of its samples."""
    return [said] if isinstance(said, str) else list(said)
