"""Text-to-text forms of tasks: inputs with T5's prefix, targets as text (Raffel et al. 2020, appendix D)."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from mixlm.data.supervised.records import Record
from mixlm.errors import UserError

UNKNOWN = -1  # the class of a text that names none
_DETERMINERS = {"a", "an", "the", "my", "your", "his", "her", "its", "our", "their", "few", "little", "s"}


@dataclass(frozen=True)
class Pair:
    """One example as text, and the `value` of its target that metrics compare with what a network has written.

    `parts` are the texts that a classifier reads, `label` its class, None without classes.
    """

    inputs: str
    targets: str
    value: Any
    parts: tuple[str, ...] = ()
    label: int | None = None


@runtime_checkable
class Format(Protocol):
    """A task as a plain value: its name, the fields it reads, its data set, its metrics, and its examples as text."""

    @property
    def name(self) -> str:
        """The name in the table, in logs and folders."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a record that are read, the label among them."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a TSV without a header; () where it has one."""
        ...

    @property
    def tfds(self) -> str:
        """The data set's name in TensorFlow Datasets."""
        ...

    @property
    def validation(self) -> str:
        """That data set's name of the validation split."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, () for a task without."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics."""
        ...

    def pairs(self, record: Record, split: str, where: str) -> Iterator[Pair]:
        """The examples of one record, mostly one."""
        ...

    def read(self, text: str, target: str) -> Any:
        """The value of a text that the network has written in place of `target`."""
        ...


@dataclass(frozen=True)
class Classes:
    """`PREFIX field: text field: text` -> the name of the label, as T5 writes GLUE and SuperGLUE.

    A label is one of `labels`, or its index. With `group`, metrics get the class with the texts of these fields.
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    tfds: str
    metrics: tuple[str, ...] = ("accuracy",)
    prefix: str = ""
    group: tuple[str, ...] = ()
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
        group = tuple(str(record[name]) for name in self.group)
        value = {"value": label, "group": group} if group else label
        yield Pair(" ".join((self.prefix or self.name, *named)), self.labels[label], value, parts, label)

    def read(self, text: str, target: str) -> Any:
        """The class that a text names, UNKNOWN for none."""
        label = self.labels.index(text) if text in self.labels else UNKNOWN
        return {"value": label} if self.group else label

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
        yield Pair(" ".join((self.name, *named)), target, float(target))

    def read(self, text: str, target: str) -> float:
        """The number that a text spells, UNKNOWN for none."""
        try:
            return float(text)
        except ValueError:
            return float(UNKNOWN)


@dataclass(frozen=True)
class Text:
    """Templates over the fields of a record: `{field}` in `inputs` and `targets`.

    `prepare` makes the records that the templates are filled with, from (record, split), where that takes more; what
    metrics compare is a record's `value`, by default the target, with `written(text, target)`, by default the text.
    `split_of` says a record's split in a file of all of them.
    """

    name: str
    inputs: str
    targets: str
    fields: tuple[str, ...]
    tfds: str
    metrics: tuple[str, ...]
    prepare: Callable[[Record, str], Iterable[Record]] | None = field(default=None, repr=False)
    written: Callable[[str, str], Any] | None = field(default=None, repr=False)
    split_of: Callable[[Record], str] | None = field(default=None, repr=False)
    columns: tuple[str, ...] = ()
    validation: str = "validation"
    labels: tuple[str, ...] = ()

    def pairs(self, record: Record, split: str, where: str) -> Iterator[Pair]:
        """The examples of a record."""
        for each in [record] if self.prepare is None else self.prepare(record, split):
            target = self.targets.format_map(each)
            yield Pair(self.inputs.format_map(each), target, each.get("value", target))

    def read(self, text: str, target: str) -> Any:
        """The text, or what `written` makes of it."""
        return text if self.written is None else self.written(text, target)


def plain(text: str) -> str:
    """The text without the line breaks and bold marks of MultiRC's paragraphs."""
    return re.sub(r"</?b>", "", re.sub(r"<br\s*/?>", " ", text))


def squad(record: Record, split: str) -> Iterator[Record]:
    """SQuAD's question; the first of the answers is the target."""
    answers = record["answers"]
    texts = list(dict.fromkeys(answers["text"] if isinstance(answers, dict) else answers))
    yield {**record, "answer": texts[0] if texts else "", "value": texts}


def record_query(record: Record, split: str) -> Iterator[Record]:
    """ReCoRD's query: in training an example for each answer, in validation one with all of them."""
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", record["passage"]).replace("\n@highlight\n", ". ")
    answers = list(dict.fromkeys(record["answers"]))
    listed = {**record, "passage": passage, "entities": ", ".join(record["entities"]), "value": answers}
    for answer in answers if split == "train" else answers[:1]:
        yield {**listed, "answer": answer}


def wsc(record: Record, split: str) -> Iterator[Record]:
    """WSC with `*` around the pronoun, whose referent is the target: in training, true examples alone."""
    true = str(record["label"]).lower() in ("true", "1")
    words, place = record["text"].split(" "), int(record["span2_index"])
    size = len(str(record["span2_text"]).split(" "))
    marked = [*words[:place], f"*{record['span2_text']}*", *words[place + size :]]
    if true or split != "train":
        yield {**record, "marked": " ".join(marked), "value": true}


def same_referent(text: str, target: str) -> bool:
    """True where the words of one are among those of the other, without articles and possessives, as T5 judges WSC."""
    said, wanted = ({*re.findall(r"[a-z]+", each.lower())} - _DETERMINERS for each in (text, target))
    return bool(said) and bool(wanted) and (said <= wanted or wanted <= said)


def mbpp(record: Record, split: str) -> Iterator[Record]:
    """MBPP's problem with its tests; the program is escaped, as vocabularies keep neither line breaks nor indents."""
    tests = record["test_list"]
    value = "\n".join([record.get("test_setup_code", ""), *tests])
    yield {**record, "code": escape(record["code"]), "tests": " ".join(tests), "value": value}


def mbpp_split(record: Record) -> str:
    """The split of MBPP's paper by task_id: 601 to 974 to train, 511 to 600 to validate."""
    number = int(record["task_id"])
    return "train" if number > 600 else "validation" if number > 510 else "test"


def escape(code: str) -> str:
    r"""Code on one line: line breaks as `\n`, and each level of indentation as `\t`, however wide it is."""
    widths, lines = [0], []
    for line in code.replace("\\", "\\\\").expandtabs(4).splitlines():
        if not line.strip():
            continue
        width = len(line) - len(line.lstrip())
        while widths[-1] > width:
            widths.pop()
        if widths[-1] < width:
            widths.append(width)
        lines.append("\\t " * (len(widths) - 1) + line.strip())
    return " \\n ".join(lines)


def unescape(text: str, target: str = "") -> str:
    """The code that `escape` wrote; `target` is not read."""
    lines = [re.sub(r"^(\s*\\t)+\s*", lambda found: "    " * found[0].count("\\t"), line) for line in _split(text)]
    return "\n".join(lines).replace("\\\\", "\\")


def _split(text: str) -> Sequence[str]:
    return re.split(r" ?(?<!\\)\\n ?", text)
