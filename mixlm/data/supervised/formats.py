"""Text-to-text forms of tasks: inputs with T5's prefix, targets as text (Raffel et al. 2020, appendix D)."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from mixlm.data.supervised.records import Record
from mixlm.errors import UserError

UNKNOWN = -1  # the class of a text that names none


@dataclass(frozen=True)
class Pair:
    """One example as text; `parts` are the texts that a classifier reads, `label` its class, None without classes.

    `answers` are all texts that count as right, the first the target itself.
    """

    inputs: str
    targets: str
    parts: tuple[str, ...] = ()
    label: int | None = None
    answers: tuple[str, ...] = ()


@runtime_checkable
class Format(Protocol):
    """A task as a plain value: its name, the fields it reads, its data set, its metrics, and its examples as text."""

    name: str
    fields: tuple[str, ...]  # of a record, the label among them
    tfds: str
    columns: tuple[str, ...]  # of a TSV without a header
    validation: str  # TFDS's name of the split
    metrics: tuple[str, ...]
    labels: tuple[str, ...]

    def pairs(self, record: Record, split: str, where: str) -> Iterator[Pair]:
        """The examples of one record, mostly one."""
        ...

    def read(self, text: str) -> Any:
        """The value that metrics compare, from a text that the network has written."""
        ...


@dataclass(frozen=True)
class Classes:
    """`PREFIX field: text field: text` -> the name of the label, as T5 writes GLUE and SuperGLUE.

    A label is one of `labels`, or its index.
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    tfds: str
    metrics: tuple[str, ...] = ("accuracy",)
    prefix: str = ""
    columns: tuple[str, ...] = ()
    validation: str = "validation"

    @property
    def fields(self) -> tuple[str, ...]:
        """The texts, and the label."""
        return (*self.texts, "label")

    def pairs(self, record: Record, split: str, where: str) -> Iterator[Pair]:
        """The example of a record; UserError for a label outside of the classes."""
        parts = tuple(plain(str(record[name])) for name in self.texts)
        label = self._label(record["label"], where)
        named = (f"{name}: {text}" for name, text in zip(self.texts, parts))
        target = self.labels[label]
        yield Pair(" ".join((self.prefix or self.name, *named)), target, parts, label, (target,))

    def read(self, text: str) -> int:
        """The class that a text names, UNKNOWN for none."""
        return self.labels.index(text) if text in self.labels else UNKNOWN

    def _label(self, held: Any, where: str) -> int:
        text = str(held).strip()
        lower = [label.lower() for label in self.labels]
        if text.lower() in lower:
            return lower.index(text.lower())
        if text.isdigit() and int(text) < len(self.labels):
            return int(text)
        listed = ", ".join(f"{number} {label}" for number, label in enumerate(self.labels))
        raise UserError(f"{where} has the label {text!r}, and the classes of {self.name!r} are {listed}.")


@dataclass(frozen=True)
class Regression:
    """A number as text, rounded to the nearest 0.2, as T5 writes STS-B."""

    name: str
    texts: tuple[str, ...]
    tfds: str
    metrics: tuple[str, ...]
    columns: tuple[str, ...] = ()
    validation: str = "validation"
    labels: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The texts, and the number."""
        return (*self.texts, "label")

    def pairs(self, record: Record, split: str, where: str) -> Iterator[Pair]:
        """The example of a record; UserError where the label is no number."""
        try:
            target = f"{round(float(record['label']) * 5) / 5:.1f}"
        except (TypeError, ValueError):
            raise UserError(f"{where} has the label {record['label']!r}, which is no number.") from None
        named = (f"{name}: {record[name]}" for name in self.texts)
        yield Pair(" ".join((self.name, *named)), target, answers=(target,))

    def read(self, text: str) -> float:
        """The number that a text spells, UNKNOWN for none."""
        try:
            return float(text)
        except ValueError:
            return float(UNKNOWN)


@dataclass(frozen=True)
class Text:
    """Templates over the fields of a record: `{field}` in `inputs` and `targets`.

    `prepare` makes the records that the templates are filled with, from (record, split), where that takes more; a
    record's `answers` are all that count as right. `split_of` says a record's split in a file of all of them.
    """

    name: str
    inputs: str
    targets: str
    fields: tuple[str, ...]
    tfds: str
    metrics: tuple[str, ...]
    prepare: Callable[[Record, str], Iterable[Record]] | None = field(default=None, repr=False)
    restore: Callable[[str], Any] = field(default=str, repr=False)
    split_of: Callable[[Record], str] | None = field(default=None, repr=False)
    columns: tuple[str, ...] = ()
    validation: str = "validation"
    labels: tuple[str, ...] = ()

    def pairs(self, record: Record, split: str, where: str) -> Iterator[Pair]:
        """The examples of a record."""
        for each in [record] if self.prepare is None else self.prepare(record, split):
            target = self.targets.format_map(each)
            yield Pair(self.inputs.format_map(each), target, answers=tuple(each.get("answers", (target,))))

    def read(self, text: str) -> Any:
        """The text, without what was escaped in it."""
        return self.restore(text)


def plain(text: str) -> str:
    """The text without the line breaks and bold marks of MultiRC's paragraphs."""
    return re.sub(r"</?b>", "", re.sub(r"<br\s*/?>", " ", text))


def squad(record: Record, split: str) -> Iterator[Record]:
    """SQuAD's question; the first of the answers is the target."""
    answers = record["answers"]
    texts = list(dict.fromkeys(answers["text"] if isinstance(answers, dict) else answers))
    yield {**record, "answer": texts[0] if texts else "", "answers": texts}


def record_query(record: Record, split: str) -> Iterator[Record]:
    """ReCoRD's query: in training an example for each answer, in validation one with all of them."""
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", record["passage"]).replace("\n@highlight\n", ". ")
    answers = list(dict.fromkeys(record["answers"]))
    listed = {**record, "passage": passage, "entities": ", ".join(record["entities"]), "answers": answers}
    for answer in answers if split == "train" else answers[:1]:
        yield {**listed, "answer": answer}


def wsc(record: Record, split: str) -> Iterator[Record]:
    """WSC with `*` around the pronoun, whose referent is the target: in training, true examples alone."""
    true = str(record["label"]).lower() in ("true", "1")
    words, place = record["text"].split(" "), int(record["span2_index"])
    size = len(str(record["span2_text"]).split(" "))
    marked = [*words[:place], f"*{record['span2_text']}*", *words[place + size :]]
    if true or split != "train":
        yield {**record, "marked": " ".join(marked), "answers": [record["span1_text"], str(true)]}


def mbpp(record: Record, split: str) -> Iterator[Record]:
    """MBPP's problem with its tests; the program is escaped, since vocabularies keep neither line breaks nor indents."""
    yield {**record, "code": escape(record["code"]), "tests": " ".join(record["test_list"])}


def mbpp_split(record: Record) -> str:
    """The split of MBPP's paper by task_id: 601 to 974 to train, 511 to 600 to validate."""
    number = int(record["task_id"])
    return "train" if number > 600 else "validation" if number > 510 else "test"


def escape(code: str) -> str:
    r"""Code on one line: line breaks as `\n`, and each four blanks or tab of indentation as `\t`."""
    lines = code.replace("\r\n", "\n").replace("\\", "\\\\").split("\n")
    return " \\n ".join(re.sub(r"^\s+", _indent, line.rstrip()) for line in lines)


def unescape(text: str) -> str:
    """The code that `escape` wrote."""
    lines = [re.sub(r"^(\s*\\t)+\s*", lambda found: "    " * found[0].count("\\t"), line) for line in _split(text)]
    return "\n".join(lines).replace("\\\\", "\\")


def _split(text: str) -> Sequence[str]:
    return re.split(r" ?(?<!\\)\\n ?", text)


def _indent(found: re.Match[str]) -> str:
    return "\\t " * (len(found[0].expandtabs(4)) // 4)
