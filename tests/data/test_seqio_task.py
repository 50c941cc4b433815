"""A Task of seqio's registry is taken as it is; a second start knows without TensorFlow that nothing has changed."""

import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from mixlm.data.dataset import Dataset
from mixlm.data.seqio_registry import mixture_parts
from mixlm.data.seqio_task import SeqioTask
from mixlm.data.store import fingerprint_cache
from mixlm.data.tasks import TextFiles, TextTask
from mixlm.data.vocabularies.given import GivenVocabulary
from mixlm.data.vocabulary import TrainedSentencePiece, Vocabulary
from mixlm.errors import NotHere, UserError

MODULE = """
import seqio
import tensorflow as tf
from folder_of_{stem} import VOCABULARY

def upper(dataset):
    return dataset.map(lambda example: {{**example, "targets": tf.strings.upper(example["targets"])}})

lines = seqio.TextLineDataSource({{"train": "{folder}/lines-*.txt", "test": "{folder}/test.txt"}})
rename = [lambda ds: ds.map(lambda line: {{"targets": line}}), upper, seqio.preprocessors.tokenize_and_append_eos]
pairs = seqio.FunctionDataSource(
    lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(
        {{"inputs": ["the farmer sells", "a sailor"], "targets": ["a boat", "paints the map"]}}
    ),
    splits=["train", "validation"],
)
both = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]

def add(name, source, preprocessors, **features):
    seqio.TaskRegistry.add(name, source, output_features=features, preprocessors=preprocessors)

feature = seqio.Feature(VOCABULARY)
add("lines_{stem}", lines, rename, targets=feature)
add("pairs_{stem}", pairs, both, inputs=seqio.Feature(VOCABULARY, add_eos=False), targets=feature)
add("bytes_{stem}", lines, rename, targets=seqio.Feature(seqio.ByteVocabulary()))
add("texts_{stem}", lines, rename[:2], targets=feature)
add("fails_{stem}", lines, [*rename, lambda ds: ds.map(lambda e: tf.debugging.assert_less(tf.size(e["targets"]), 3))],
    targets=feature)
add("inputs_{stem}", pairs, both, inputs=feature)
seqio.MixtureRegistry.add("inner_{stem}", [("lines_{stem}", 3), ("texts_{stem}", 1)])
seqio.MixtureRegistry.add("mix_{stem}", [("lines_{stem}", 1.5), ("inner_{stem}", 4)])
"""


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own
        yield


@pytest.fixture(scope="module")
def vocabulary(corpus, tmp_path_factory) -> Vocabulary:
    source = TextFiles(str(corpus))
    task = TextTask("corpus", source, TrainedSentencePiece(vocab_size=112, sentinels=20))
    return task.load_vocabulary(tmp_path_factory.mktemp("vocabulary"), lambda line: None)


@pytest.fixture
def made(tmp_path, vocabulary, request) -> tuple[Path, str]:
    """A module that registers Tasks over three files of lines, and the end of the Tasks' names."""
    stem = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    for name, lines in {"lines-1": ["no senator"], "lines-0": ["the baker", "her violin"], "test": ["in"]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / f"folder_of_{stem}.py").write_text(
        f"import seqio\nVOCABULARY = seqio.SentencePieceVocabulary({str(vocabulary.path)!r}, extra_ids=20)\n"
    )
    path = tmp_path / f"tasks_{stem}.py"
    path.write_text(MODULE.format(stem=stem, folder=tmp_path))
    return path, stem


def task(made: tuple[Path, str], name: str = "lines", **changes: object) -> SeqioTask:
    plain = SeqioTask(f"{name}_{made[1]}", str(made[0]), validation_split="test", sentinels=20, mask=4, bos=3)
    return replace(plain, **changes)


def stored(task: SeqioTask, cache: Path, split: str = "train"):
    return Dataset(task, cache_dir=str(cache)).prepare(lambda line: None).store.split(split)


def test_a_registered_task_is_stored_as_its_preprocessors_make_it(made, tmp_path, vocabulary):
    prepared = Dataset(task(made), cache_dir=str(tmp_path / "cache")).prepare(lambda line: None)
    assert prepared.vocabulary.token_ids == vocabulary.token_ids
    lines = ["THE BAKER", "HER VIOLIN", "NO SENATOR"]
    split = prepared.store.split("train")
    found = [split.tokens[a:b].tolist() for a, b in zip(split.offsets, split.offsets[1:])]
    # seqio reads several files at once, and always in the same order.
    assert sorted(found) == sorted([*vocabulary.encode(line), 1] for line in lines)
    assert (split.text_bytes, split.targets) == (sum(map(len, lines)), None)
    assert prepared.store.split("validation").tokens.tolist() == [*vocabulary.encode("IN"), 1]
    sizes = vocabulary.encode_with_bytes("IN")[1]
    assert sum(sizes) == 2 and prepared.validation_bytes(1, len(sizes) + 1)[:, 0].tolist() == [*sizes, 0]
    later = [document.tokens.tolist() for document in task(made).tokenized(vocabulary, "train", first=1)]
    assert later == found[1:]


def test_a_supervised_task_is_text_and_keeps_its_pairs(made, tmp_path, vocabulary):
    pairs = [("the farmer sells", "a boat"), ("a sailor", "paints the map")]
    for bos in (False, True):
        supervised = task(made, "pairs", validation_split="validation", add_bos=bos)
        split = stored(supervised, tmp_path / "cache")
        for number, (inputs, targets) in enumerate(pairs):
            first, middle, last = split.offsets[number], split.targets[number], split.offsets[number + 1]
            assert split.tokens[first:middle].tolist() == [3] * bos + vocabulary.encode(inputs)
            assert split.tokens[middle:last].tolist() == [*vocabulary.encode(targets), 1]
        assert split.text_bytes == sum(len(a) + len(b) for a, b in pairs)


SECOND = """
import sys
from mixlm.data.dataset import Dataset
from mixlm.data.seqio_task import SeqioTask
task = SeqioTask({name!r}, {module!r}, validation_split="test", sentinels=20, mask=4, bos=3)
print(Dataset(task, cache_dir={cache!r}).prepare().summary.fingerprint, "tensorflow" in sys.modules)
"""


@pytest.mark.slow
def test_a_second_start_imports_no_tensorflow_unless_something_has_changed(made, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint_cache, "SETTLED_SECONDS", -1.0)
    plain, cache = task(made), tmp_path / "cache"
    first = Dataset(plain, cache_dir=str(cache)).prepare(lambda line: None).summary.fingerprint

    def second() -> list[str]:
        program = SECOND.format(name=plain.name, module=plain.module, cache=str(cache))
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert second() == [f"{first} False"]
    (tmp_path / "lines-2.txt").write_text("a new one\n")
    said = second()
    assert said[0].startswith("Tokenising lines_") and said[1].endswith(" True") and not said[1].startswith(first)


def test_the_fingerprint_follows_all_that_it_promises(made, tmp_path):
    plain = task(made)
    found = [
        plain.fingerprint(),
        task(made, "texts").fingerprint(),
        replace(plain, add_bos=True).fingerprint(),
        replace(plain, mask=5).fingerprint(),
        replace(plain, validation_split="train", train_split="test").fingerprint(),
    ]
    assert plain.fingerprint() == found[0]
    (tmp_path / "test.txt").write_text("on\n")
    found.append(plain.fingerprint())
    (tmp_path / "test.txt").write_text("in\n")
    assert plain.fingerprint() == found[0]
    with open(made[0], "a") as file:
        file.write("# another definition, as far as anyone can tell\n")
    found.append(plain.fingerprint())
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("line", {}, r"^'[^']*\.py' registers no Task 'line_\w+'\. Did you mean 'lines_\w+'\?$"),
        ("lines", {"train_split": "trian"}, r"has no split 'trian', only 'train', 'test'\. Did you mean 'train'\?$"),
        ("lines", {"sentinels": 100}, r"has 20 extra_ids; set SENTINELS to that\.$"),
        ("bytes", {}, r"^The Task 'bytes_\w+' has a ByteVocabulary; only a SentencePieceVocabulary "),
        ("texts", {}, r"^The Task 'texts_\w+' does not make its feature 'targets' a sequence of token ids\.$"),
        ("fails", {}, r"^The Task 'fails_\w+' failed in its split 'train': [^\n]*\.$"),
        ("inputs", {"validation_split": "validation"}, r"has no feature 'targets', only \['inputs'\]\.$"),
        (
            "mix",
            {},
            r"^'mix_\w+' is no Task but a Mixture, of lines_\w+ \(4\.5\), texts_\w+ \(1\); give --gin_file=",
        ),
        ("a b", {}, r"The Task's name 'a b_\w+' may only hold"),
    ],
)
def test_what_cannot_be_trained_on_is_one_sentence(made, tmp_path, name, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        stored(task(made, name, **changes), tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_is_named(made, tmp_path):
    (tmp_path / "test.txt").unlink()
    with pytest.raises(UserError, match=r"finds no '[^']*test\.txt' for its split 'test'\.$"):
        stored(task(made), tmp_path / "cache")
    for path in tmp_path.glob("lines-*.txt"):
        path.rename(path.with_suffix(".old"))
    (tmp_path / "test.txt").write_text("in\n")
    with pytest.raises(UserError, match=r"finds no '[^']*' for its split 'train'\.$"):
        stored(task(made), tmp_path / "cache")


def test_a_mixture_s_parts_have_rates_with_the_shares_of_inner_mixtures(made):
    lines, texts = mixture_parts(f"mix_{made[1]}", str(made[0]))
    assert lines == (f"lines_{made[1]}", 1.5 + 4 * 3 / 4)
    assert texts == (f"texts_{made[1]}", 4 * 1 / 4)
    with pytest.raises(UserError, match=r"registers no Mixture 'mixx_\w+'\. Did you mean 'mix_\w+'\?$"):
        mixture_parts(f"mixx_{made[1]}", str(made[0]))


@pytest.mark.parametrize(
    ("module", "content", "words"),
    [
        ("", None, r"say --gin\.TASK_MODULE=MODULE"),
        ("{folder}/taskss.py", None, r"^There is no file '[^']*taskss\.py'\. Did you mean '[^']*tasks\.py'\?$"),
        ("jsonn", None, r"^There is no module 'jsonn'\. Did you mean 'json'\?$"),
        ("json.decodr", None, r"^There is no module 'json\.decodr'\. Did you mean 'decoder'\?$"),
        ("no_such.thing.at_all", None, r"^There is no module 'no_such\.thing\.at_all'\.$"),
        ("{folder}/tasks.py", "import seqio\n\n1 / 0\n", r"ZeroDivisionError in line 3 of [^ ]*tasks\.py: division by"),
        ("{folder}/tasks.py", "def f(:\n", r"cannot be imported: SyntaxError in "),
        ("{folder}/tasks.py", "import not_installed_anywhere\n", r"ModuleNotFoundError in line 1 of [^ ]*tasks\.py"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_sentence(tmp_path, module, content, words):
    (tmp_path / "tasks.py").write_text(content or "")
    with pytest.raises(UserError, match=words) as caught:
        SeqioTask("a_task", module.format(folder=tmp_path)).fingerprint()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, NotHere) == (module == "")


def test_a_module_is_found_by_name_where_python_looks_and_in_the_working_folder(tmp_path):
    program = textwrap.dedent(
        """
        import sys
        from mixlm.data.user_module import files_of, imported
        for name in ("own_tasks", "deep.inner", "xml.dom"):
            print(sorted(path.name for path in files_of(name))[:2], name.split(".")[0] in sys.modules)
        imported("own_tasks"); imported("own_tasks"); imported("deep.inner")
        """
    )
    (tmp_path / "own_tasks.py").write_text("print('own tasks')\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "inner.py").write_text("print('deep inner')\n")
    # As a script lies in a folder of its own, the working folder is none of Python's.
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "run.py").write_text(program)
    done = subprocess.run([sys.executable, "scripts/run.py"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "['own_tasks.py'] False", "['inner.py'] False", "['NodeFilter.py', '__init__.py'] False",
        "own tasks", "deep inner",
    ]  # fmt: skip


NAMED = """
import seqio
import tensorflow as tf
from folder_of_{stem} import VOCABULARY

def source(**features):
    made = lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(features)
    return seqio.FunctionDataSource(made, splits=["train", "validation"])

def add(name, **features):
    output = {{feature: seqio.Feature(VOCABULARY, add_eos=False) for feature in features}}
    steps = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    seqio.TaskRegistry.add(f"{{name}}_{stem}", source(**features), output_features=output, preprocessors=steps)

add("corpus", targets=["a <extra_id_0> boat", "the baker"])
add("spans", inputs=["a <extra_id_0> boat"], targets=["<extra_id_0> an oak"])
"""


def test_a_sentinel_in_a_corpus_is_text_and_in_a_pair_the_sentinel(made, vocabulary):
    made[0].write_text(NAMED.format(stem=made[1]))
    corpus, spans = (task(made, name, validation_split="validation") for name in ("corpus", "spans"))
    found = [document.tokens.tolist() for document in corpus.tokenized(vocabulary, "train")]
    assert found == [vocabulary.encode("a <extra_id_0> boat"), vocabulary.encode("the baker")]
    assert not {vocabulary.token_ids.first_sentinel} & set(found[0])
    (pair,) = spans.tokenized(vocabulary, "train")
    marked = [vocabulary.encode_with_sentinels(text) for text in ("a <extra_id_0> boat", "<extra_id_0> an oak")]
    assert pair.tokens.tolist() == [*marked[0], *marked[1]] and marked[0][1] == vocabulary.token_ids.first_sentinel


def test_bytes_have_seqio_s_ids():
    import seqio

    vocabulary, reference = GivenVocabulary("bytes", 5).load(), seqio.ByteVocabulary(extra_ids=5)
    for text in ("", "Life is like a box of chocolates.", " e\u0301\t\u65e5\u672c\n\U0001f600 <extra_id_0></s>"):
        assert vocabulary.encode(text) == list(reference.encode(text))
        assert vocabulary.decode(vocabulary.encode(text)) == reference.decode(reference.encode(text)) == text
    assert (vocabulary.token_ids.pad, vocabulary.token_ids.eos) == (reference.pad_id, reference.eos_id)
    assert vocabulary.token_ids.unk == reference.unk_id
