"""Odd inputs for the commands, each made from a random generator: benchmarks/fuzz.py runs them."""

import ast
import gzip
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = ("the", "of", "and", "to", "in", "a", "that", "is", "was", "for", "it", "with", "as", "his", "on", "be", "at")
RECIPES = ("spactor", "dual", "gpt_bert", "antlm", "antlm_ltg_bert", "ar2diff", "mile")
# A model of some thousand parameters, which trains in seconds.
SMALL = {
    "EMB_DIM": 16,
    "Llama.num_heads": 2,
    "Llama.head_dim": 8,
    "Llama.mlp_dim": 24,
    "Llama.num_layers": 1,
    "VOCAB_SIZE": 384,
    "BATCH_SIZE": 4,
    "TASK_FEATURE_LENGTHS": '{"targets": 32}',
    "LOG_PERIOD": 1,
    "EVAL_PERIOD": 3,
    "EVAL_BATCHES": 1,
    "CHECKPOINT_PERIOD": 3,
    "WARMUP_STEPS": 1,
    "FREQUENCY_BANDS": "()",
}
NUMBERS = ("0", "-1", "1", "2", "3", "7", "1.5", "0.25", "-0.0", "1e400", "-1e400", "1e-400", "nan", "2147483648")
HUGE = ("4294967296", "9223372036854775808", "1" + "0" * 30, "1" * 5000)
STRINGS = (
    "",
    "x",
    " ",
    "None",
    "True",
    "~",
    "~nobody/x",
    "/dev/null",
    "a" * 300,
    "\u2028",
    "\u00e9",
    "gs://b/x",
    "a=b#c",
)
CONTAINERS = (
    "()",
    "(1,)",
    "(0.5, 0.5)",
    "[1]",
    "{}",
    "{'targets': 0}",
    "{'inputs': 8, 'x': 1}",
    "((1, 2), 3)",
    "'(1,'",
)
REFERENCES = (
    "@optim.AdamW()",
    "@optim.AdamW",
    "@nothing()",
    "%NOTHING",
    "%SEED",
    "@",
    "%",
    "@losses.MiLe()",
    "@causal.Causal()",
)
POOLS = (NUMBERS, NUMBERS, HUGE, STRINGS, CONTAINERS, REFERENCES)
ODD_TEXTS = (
    b"",
    b" \n\t\n",
    b"\xff\xfe",
    b"ok\x00ok and more words to read\n" * 9,
    b"\xef\xbb\xbfthe byte order mark of the words\n\n" * 9,
    b"the words\rthat end in CR\r\r" * 20,
    b"<extra_id_0> <pad> </s> <mask> of the words\n\n" * 20,
    "\u2028\u0085\x0b one \u00e9 \u65e5\u672c\u8a9e \U0001f600\n\n".encode() * 20,
    b"x" * 200_000,
)


@dataclass(frozen=True)
class Case:
    """A command's arguments, and what is known of it: "good" must be taken, "bad" refused; else either is right.

    `run` is a run folder that the input brings, with the steps of its whole checkpoints and the whole lines of its
    metrics, which must not get lost.
    """

    arguments: tuple[str, ...]
    verdict: str = "either"
    stdin: bytes = b""
    run: Path | None = None
    whole_steps: frozenset[int] = frozenset()
    lines: tuple[bytes, ...] = ()


def train_command(text: Path, folder: Path, steps: int = 6, **changes: Any) -> list[str]:
    """The arguments that train the small model."""
    settings = {**SMALL, "TRAIN_STEPS": steps, "MODEL_DIR": folder, **changes}
    return [
        "train",
        "--gin_file=mile.gin",
        f"--text={text}",
        *(f"--gin.{name}={value}" for name, value in settings.items()),
    ]


def with_run(command: str, text: Path, folder: Path, **changes: Any) -> list[str]:
    """The arguments of another command for a run of the small model."""
    return [command, *train_command(text, folder, **changes)[1:]]


def prose(draw: random.Random, words: int) -> str:
    """Sentences of English's most frequent words, with some that are made up, in paragraphs."""
    text = []
    for place in range(words):
        made = "".join(draw.choice("bdklmnrst") + draw.choice("aeiou") for _ in range(draw.randint(1, 4)))
        text.append(draw.choice(WORDS) if draw.random() < 0.7 else made)
        text.append(draw.choice([" ", " ", " ", ", ", ". "]) if place % 60 else ".\n\n")
    return "".join(text)


def write_prose(folder: Path, files: int, seed: int, words: int = 400) -> None:
    """A folder of text files."""
    folder.mkdir(parents=True)
    for number in range(files):
        (folder / f"{number:02}.txt").write_text(prose(random.Random(f"{seed}/{number}"), words), encoding="utf-8")


def gin_value(draw: random.Random, folder: Path, text: Path, base: Path) -> Case:
    """A macro of a recipe with a value, mostly of its type; half are tried with the small model for two steps."""
    recipe = draw.choice(RECIPES) if draw.random() < 0.5 else "mile"
    known = macros(recipe)
    small = recipe == "mile"
    name = draw.choice([each for each in sorted(known) if not small or each != "MODEL_DIR"])
    value = draw.choice(of_type(known[name]) if draw.random() < 0.7 else draw.choice(POOLS))
    if small:
        return Case((*train_command(text, folder / "new", steps=2), f"--gin.{name}={value}"))
    own = [f"--gin.TRAIN_STEPS={draw.choice((1, 2, 4))}"] if draw.random() < 0.7 else []
    files = (f"--gin_file={recipe}.gin", f"--text={text}", "--gin.VOCAB_SIZE=512")
    return Case(("explain", *files, *own, f"--gin.{name}={value}"))


def of_type(default: str) -> tuple[str, ...]:
    """Values of the type that a macro's own value has, most of them small."""
    if default in ("True", "False"):
        return ("True", "False")
    if default.startswith(("'", '"')):
        return STRINGS
    if default.startswith(("(", "[", "{")):
        return CONTAINERS
    if default.startswith(("@", "%")):
        return (*REFERENCES, default)
    return (default, "None", *NUMBERS, "4", "5", "8", "0.5", "0.1", "1e-3", "2.0")


def macros(recipe: str) -> dict[str, str]:
    """The macros of a recipe and of the files that it includes, with their values."""
    found: dict[str, str] = {}
    root, todo = Path(__file__).resolve().parents[1] / "gin", [f"{recipe}.gin"]
    while todo:
        text = (root / todo.pop()).read_text(encoding="utf-8")
        todo += re.findall(r"^include '(.+)'$", text, re.MULTILINE)
        given = re.findall(r"^([A-Z][A-Z0-9_]*) = (.*?)(?:  #.*)?$", text, re.MULTILINE)
        found = dict(given) | found
    found.pop("RECIPE")
    return found


def command_line(draw: random.Random, folder: Path, text: Path, base: Path) -> Case:
    """A command line that is wrong somewhere: flags, files, names."""
    good = train_command(text, folder / "new", steps=1)
    kind = draw.randrange(6)
    if kind == 0:
        return Case(
            (*good, draw.choice(["--explian", "--prompt=x", "-x", "--TAU=3", "stray", "--gin.", "--gin.=3"])), "bad"
        )
    if kind == 1:
        names = ["", "duall", "duall.gin", "/dev/null", "/dev/zero", "/etc", "a" * 300 + ".gin", str(text), "x\n.gin"]
        return Case(
            (draw.choice(["train", "evaluate", "decode", "explain"]), f"--gin_file={draw.choice(names)}"), "bad"
        )
    if kind == 2:
        content = draw.choice(
            [b"\xff", b"TRAIN_STEPS = ", b"NO_MACRO_OF_OURS = 1", b"\x00", b"include 'x.gin'", b"a b c", b"(" * 999]
        )
        (folder / "mine.gin").write_bytes(content)
        return Case((good[0], f"--gin_file={folder / 'mine.gin'}", *good[1:]), "bad")
    if kind == 3:
        (folder / "mine.gin").write_bytes(b"\xef\xbb\xbfSEED = 3\r\n")
        return Case(("explain", *good[1:], f"--gin_file={folder / 'mine.gin'}"), "good")
    if kind == 4:
        names = sorted({"TRAIN_STEP", "GAMA", "BATCHSIZE", "Causal.los", "nothing.Llama.x", "MiLe.gamma.x", "a b"})
        return Case((*good, f"--gin.{draw.choice(names)}=1"), "bad")
    (folder / "file").write_bytes(b"kept")
    places = [folder / "file", folder / "file" / "below", "/dev/null", "/dev/null/x", "s3://bucket/run", "a" * 300]
    return Case(tuple(train_command(text, draw.choice(places), steps=1)), "bad")


def text_folder(draw: random.Random, folder: Path, text: Path, base: Path) -> Case:
    """A folder, or one file, as text: what is good, what is odd, and what is no text at all."""
    place = folder / "text"
    if draw.random() < 0.3:
        path = folder / draw.choice(["one.txt", "one", "one.md", "one.parquet", "one.TXT", "\u00e9.txt"])
        return _about(draw, folder, path, *_odd_file(draw, path))
    write_prose(place, files=draw.randint(1, 6), seed=draw.randrange(999), words=600)
    verdicts = [_odd_entry(draw, place) for _ in range(draw.randint(0, 3))]
    bad = "bad" in verdicts
    return _about(draw, folder, place, "bad" if bad else "either" if verdicts else "good")


def _about(draw: random.Random, folder: Path, path: Path, verdict: str) -> Case:
    command = draw.choice(["explain", "explain", "train"])
    return Case((command, *train_command(path, folder / "new", steps=1, VOCAB_SIZE=256)[1:]), verdict)


def _odd_file(draw: random.Random, path: Path) -> tuple[str]:
    kind = draw.randrange(4)
    if kind == 0:
        os.mkfifo(path)
        return ("bad",)
    if kind == 1:
        path.symlink_to(draw.choice(["/dev/zero", path.name, "nowhere", "/dev/null"]))
        return ("bad",)
    if kind == 2:
        path.write_bytes(draw.choice(ODD_TEXTS))
        return ("either",)
    path.write_text(prose(draw, 3000), encoding="utf-8")
    return ("either" if path.suffix == ".parquet" else "good",)


def _odd_entry(draw: random.Random, place: Path) -> str:
    """Adds something odd to a folder of text, and says whether the folder is surely refused now."""
    kind = draw.randrange(9)
    name = f"{draw.randrange(10**6)}"
    if kind == 0:
        (place / ".git").mkdir(exist_ok=True)
        (place / ".git" / f"{name}.txt").write_bytes(b"\xff")
        return "either"
    if kind == 1:
        (place / f"{name}.txt").symlink_to(draw.choice(["nowhere", f"{name}.txt", "/dev/zero"]))
    elif kind == 2:
        (place / name).symlink_to(draw.choice([".", "..", "nowhere"]))
    elif kind == 3:
        os.mkfifo(place / f"{name}.txt")
    elif kind == 4:
        path = os.fsencode(place) + b"/\xff" + name.encode() + b".txt"
        with open(path, "wb") as file:
            file.write(prose(draw, 100).encode())
    elif kind == 5:
        (place / f"{name}{draw.choice(['.parquet', '.TXT', '.jsonl.zst', '.json', '.md', '.jsonl'])}").write_text(
            prose(draw, 50)
        )
    elif kind == 6:
        copied = draw.choice(sorted(path for path in place.glob("*.txt") if path.is_file()))
        shutil.copy(copied, place / f"{name}.txt")
    elif kind == 7:
        (place / f"{name}.txt").write_bytes(draw.choice(ODD_TEXTS[2:4]))
        return "bad"
    else:
        (place / f"{name}.txt").write_bytes(draw.choice(ODD_TEXTS))
    return "either"


def odd_json(draw: random.Random, good: dict[str, str]) -> tuple[bytes, str]:
    """A line of JSON with the fields of `good`, or what is none; and whether it is surely refused."""
    kind = draw.randrange(12)
    text = json.dumps(good, ensure_ascii=draw.random() < 0.5)
    field = draw.choice(sorted(good))
    wrong: tuple[Any, ...] = (None, 3, [], {}, True, 1.5, ["a"])
    lines: dict[int, tuple[bytes, str]] = {
        0: (text[: draw.randint(1, len(text) - 1)].encode(), "bad"),
        1: (json.dumps({**good, field: draw.choice(wrong)}).encode(), "bad"),
        2: (json.dumps({key: value for key, value in good.items() if key != field}).encode(), "bad"),
        3: (b"[" * draw.choice((70, 1000, 200_000)), "bad"),
        4: (text[:-1].encode() + b', "n": ' + b"1" * 5000 + b"}", "bad"),
        5: (text.encode() + b"\xff", "bad"),
        6: (json.dumps({**good, "extra": draw.choice([float("nan"), 1e308, None, [[]]])}).encode(), "either"),
        7: (text[:-1].encode() + b', "deep": ' + b"[" * 200 + b"]" * 200 + b"}", "bad"),
        8: (b"", "either"),
        9: (json.dumps({**good, field: good[field] + "\u2028\u0085 <extra_id_0> </s> \ud800"}).encode(), "either"),
        10: (json.dumps({**good, field: ""}).encode(), "either"),
    }
    return lines.get(kind, (text.encode(), "good"))


def json_lines(draw: random.Random, folder: Path, text: Path, base: Path) -> Case:
    """JSON lines as text, whole or packed, with some lines that are odd."""
    ending = draw.choice([".jsonl", ".jsonl.gz", ".json.gz", ".JSONL"])
    found = [(json.dumps({"text": prose(draw, 150)}).encode(), "good") for _ in range(12)]
    found += [odd_json(draw, {"text": prose(draw, 60)}) for _ in range(draw.choice((0, 1, 1, 2)))]
    draw.shuffle(found)
    content = draw.choice([b"\n", b"\r\n"]).join(line for line, _ in found) + b"\n"
    verdict = "bad" if any(each == "bad" for _, each in found) else "either"
    if draw.random() < 0.1:
        content = b"\xef\xbb\xbf" + content
    if ending.endswith(".gz"):
        content = gzip.compress(content)
        if draw.random() < 0.2:
            content, verdict = content[: draw.randint(0, len(content) - 1)], "bad"
    (folder / "text").mkdir()
    (folder / "text" / f"a{ending}").write_bytes(content)
    return _about(draw, folder, folder / "text" / f"a{ending}" if draw.random() < 0.5 else folder / "text", verdict)


def pairs(draw: random.Random, folder: Path, text: Path, base: Path) -> Case:
    """Minimal pairs with some that are odd, scored with the trained run."""
    place = folder / "pairs"
    place.mkdir()
    good = {"sentence_good": prose(draw, 8), "sentence_bad": prose(draw, 8)}
    found = [(json.dumps(good).encode(), "good") for _ in range(3)]
    found += [odd_json(draw, good) for _ in range(draw.choice((0, 1, 1)))]
    if draw.random() < 0.2:
        empty = draw.choice(["", " ", "\n", "\u00a0"])
        found.append((json.dumps({**good, draw.choice(sorted(good)): empty}).encode(), "bad"))
    draw.shuffle(found)
    verdict = "bad" if any(each == "bad" for _, each in found) else "either"
    (place / "a.jsonl").write_bytes(draw.choice([b"", b"\xef\xbb\xbf"]) + b"\n".join(line for line, _ in found))
    kind, asked = draw.randrange(8), str(place)
    if kind == 0:
        os.mkfifo(place / "b.jsonl")
        verdict = "either" if verdict == "good" else verdict
    elif kind == 1:
        asked, verdict = draw.choice(["tfds:", "tfds:no such", "/dev/zero", "nowhere", ""]), "bad"
    elif kind == 2:
        (place / ".hidden.jsonl").write_bytes(b"\xff")
    run = copied(folder, base)
    extra = [f"--gin.PAIRS={draw.choice(['1', '0', '-1', '2.5', 'x', '99'])}"] if draw.random() < 0.2 else []
    arguments = (*with_run("evaluate", text, run), f"--gin.MINIMAL_PAIRS={asked}", "--gin.SCORED_ROWS=1", *extra)
    return Case(arguments, verdict, **held(run))


def prompts(draw: random.Random, folder: Path, text: Path, base: Path) -> Case:
    """Prompts from flags, a file or standard input, and settings of decoding."""
    odd = (
        "",
        " ",
        "\u2028",
        "the <extra_id_0> of",
        "</s>",
        "<mask>",
        "\u65e5\u672c",
        "x" * 5000,
        "a\u0301",
        "\x07",
        "the Congress",
    )
    chosen, run = draw.choice(odd), copied(folder, base)
    verdict = "bad" if not chosen.strip() else "either"
    kind, stdin = draw.randrange(6), b""
    if kind == 0:
        given, stdin = [], draw.choice([b"", b"\xff\n", b"the\rof\r", b"a\x00b\n", chosen.encode() + b"\n"])
        verdict = "bad" if stdin in (b"", b"\xff\n") else "either"
    elif kind == 1:
        path = folder / "prompts"
        path.write_bytes(draw.choice(ODD_TEXTS[:3]))
        given, verdict = [f"--prompt_file={path}"], "bad"
    elif kind == 2:
        os.mkfifo(folder / "pipe")
        given, verdict = (
            [f"--prompt_file={draw.choice([folder / 'pipe', '/dev/zero', folder, folder / 'nowhere'])}"],
            "bad",
        )
    else:
        given = [f"--prompt={chosen}"]
    flags = {
        "max_tokens": ("1", "4", "0", "-1", "1000000000", "x", "2.5", "1" * 30),
        "how": ("autoregressive", "masked", "unrolled", "spans", "", "causal"),
        "temperature": ("0", "0.5", "-1", "nan", "1e400", "x"),
        "top_k": ("0", "3", "-2", "99999999", "x"),
        "top_p": ("0.5", "0", "2", "nan"),
        "beams": ("1", "3", "0", "100000"),
        "seed": ("1", "-1", "99999999999999999999", "x"),
        "steps": ("4",),
    }
    names = draw.sample(sorted(flags), draw.choice((0, 0, 1, 2)))
    extra = [f"--{name}={draw.choice(flags[name])}" for name in names]
    if not any(each.startswith("--max_tokens") for each in extra):
        extra.append("--max_tokens=4")
    return Case((*with_run("decode", text, run), *given, *extra), verdict, stdin, **held(run))


def damaged_run(draw: random.Random, folder: Path, text: Path, base: Path) -> Case:
    """A run in which one file is damaged; then it is trained on, scored or decoded."""
    run = copied(folder, base)
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    # Half of the damage is done to the files that mixlm itself reads, a tenth of all files.
    named = [path for path in files if path.suffix in (".json", ".jsonl", ".gin") or "checksums" in path.name.lower()]
    path = draw.choice(named if draw.random() < 0.6 else files)
    steps = frozenset(step for step in (3, 6) if run / "checkpoints" / str(step) not in path.parents)
    damage(draw, path, folder)
    command = draw.choice(["train", "train", "evaluate", "decode"])
    if command == "train":
        arguments = train_command(text, run, steps=draw.choice((6, 8)))
    else:
        arguments = with_run(command, text, run)
        arguments += ["--prompt=the of", "--max_tokens=2"] if command == "decode" else ["--gin.SCORED_ROWS=1"]
    return Case(tuple(arguments), **{**held(run), "whole_steps": steps})


def damage(draw: random.Random, path: Path, folder: Path) -> None:
    """Does one harm to a file."""
    content, kind = path.read_bytes(), draw.randrange(9)
    outside = folder / "outside"
    outside.write_bytes(b"kept")
    if kind in (0, 1, 2):
        path.unlink()
        if kind == 1:
            path.symlink_to(draw.choice([outside, path.name, "nowhere", "/dev/zero"]))
        if kind == 2:
            os.mkfifo(path) if draw.random() < 0.5 else path.mkdir()
    elif kind == 3:
        path.write_bytes(content[: draw.randrange(len(content) + 1)])
    elif kind == 4:
        path.write_bytes(
            draw.choice(
                [b"", b"\n", b"{}", b"[]", b"null", b"\xff\x00" * 50, b"[" * 100_000, b"1" * 5000, b'{"step": "x"}']
            )
        )
    elif kind == 5 and content:
        place = draw.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :])
    elif kind == 6:
        lines = content.splitlines(keepends=True)
        lines.insert(
            draw.randint(0, len(lines)),
            draw.choice([b"\n", b"garbage\n", b"\xff\n", b"{}\n", b'{"step": -1}\n', b"[]\n"]),
        )
        path.write_bytes(b"".join(lines))
    elif kind == 7:
        path.write_bytes(content + draw.choice([b"\x00", b"{", b"\n\n", content]))
    else:
        path.write_bytes(_other_values(draw, content))


def _other_values(draw: random.Random, content: bytes) -> bytes:
    """JSON with one value of another type; what is no JSON is cut."""
    try:
        found = json.loads(content)
        key = draw.choice(sorted(found))
    except (ValueError, IndexError, TypeError):
        return content[: len(content) // 2]
    found[key] = draw.choice([None, -1, 10**400, "x", [], {}, {"a": {"b": []}}, True, ast.literal_eval("1e300")])
    return json.dumps(found).encode()


def copied(folder: Path, base: Path) -> Path:
    """A copy of the trained run."""
    return Path(shutil.copytree(base, folder / "run", symlinks=True))


def held(run: Path) -> dict[str, Any]:
    """The parts of a run that must not get lost."""
    lines: list[bytes] = []
    path = run / "metrics.jsonl"
    if path.is_file() and path.stat().st_size:
        for line in path.read_bytes().split(b"\n"):
            try:
                if isinstance(json.loads(line).get("step"), int):
                    lines.append(line)
            except (ValueError, RecursionError, AttributeError):
                continue
    return {"run": run, "whole_steps": frozenset((3, 6)), "lines": tuple(lines)}


KINDS: dict[str, Callable[[random.Random, Path, Path, Path], Case]] = {
    "gin_value": gin_value,
    "command_line": command_line,
    "text": text_folder,
    "json_lines": json_lines,
    "pairs": pairs,
    "prompts": prompts,
    "damaged_run": damaged_run,
}
