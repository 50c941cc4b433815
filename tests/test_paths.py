"""Every path that a user gives is local: a URL is refused in one sentence before anything is written, ~ is expanded."""

import errno
import re
from pathlib import Path

import pytest

from mixlm.checkpoints.from_t5x import load_checkpoint
from mixlm.cli import decode
from mixlm.data.store.cache import cache_folder
from mixlm.errors import UserError, nearest
from mixlm.evaluation.pair_files import read_pairs
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.paths import RunRef, local
from mixlm.recipe import Recipe

URL = "gs://bucket/place"


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path, monkeypatch):
    """Each test runs in an empty folder, and leaves it empty."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url", [URL, "s3://b/x", "file:///tmp/x", "https://example.org/x.txt", "memory://x", "gs:/b/x"]
)
def test_a_url_is_no_path(url):
    for given in (url, Path(url)):
        with pytest.raises(UserError, match=r"^MODEL_DIR '[^']*' is a URL, and only local paths are read and written"):
            local(given, "MODEL_DIR")


@pytest.mark.parametrize("text", ["", "runs/a", "/tmp/a:b/c", "a@best", "C:/texts", "tfds:blimp", "10:30/notes", "a/~"])
def test_other_names_are_paths(text):
    assert local(text) == Path(text)


def test_a_folder_whose_name_begins_with_a_tilde_is_given_with_a_dot():
    path = local("./~x:/y")
    assert path == Path.cwd() / "~x:" / "y" and local(path) == path


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a\0b", "it holds a NUL character"),
        ("a/\udcff", "it is not UTF-8"),
        ("~nobody.has.this.name/x", r"no user 'nobody.has.this.name' .* \./~nobody.has.this.name"),
        (f"a/{'x' * 256}", "a name in it has 256 bytes, and a file's has at most 255"),
        ("é" * 128, "has 256 bytes"),
        ("x" * 300, r"^MODEL_DIR 'x{80}\.\.\.' cannot"),
        ("/" + "/".join(["x" * 99] * 40), "it has 4,000 bytes"),
    ],
)
def test_what_no_file_can_be_called_is_one_sentence(text, fault):
    for given in (text, Path(text)):
        with pytest.raises(UserError, match=fault):
            local(given, "MODEL_DIR")
        with pytest.raises(UserError, match=fault):
            RunRef.parse(given, "MODEL_DIR")


def test_the_longest_names_are_paths():
    for text in ("x" * 255, "é" * 127, "/" + "/".join(["x" * 255] * 12)):
        assert local(text) == Path(text)


def test_a_path_where_nobody_may_look_is_one_sentence(monkeypatch, tmp_path):
    def stat(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("mixlm.paths.os.stat", stat)
    with pytest.raises(UserError, match=r"^MODEL_DIR 'a' cannot be used: Permission denied\.$"):
        local("a", "MODEL_DIR")


def test_other_values_are_no_paths():
    for given in (3, None, b"a", ["a"]):
        with pytest.raises(UserError, match=rf"^The path is a path, not a value of type {type(given).__name__}\.$"):
            local(given)


def test_a_wrong_name_is_never_corrected_to_itself():
    assert nearest("abc", ["abc"]) == ""
    assert nearest("abc", ["abc", "abd"]) == " Did you mean 'abd'?"


MODULE = f"--gin.TASK_MODULE={URL}/tasks.py"
REFUSED = [
    ("MODEL_DIR", [f"--gin.MODEL_DIR={URL}"]),
    ("MODEL_DIR", [f"--gin.MODEL_DIR={URL}@best"]),
    ("INIT_FROM", [f"--gin.INIT_FROM={URL}"]),
    ("CACHE_DIR", [f"--gin.CACHE_DIR={URL}"]),
    ("TEXT", [f"--text={URL}"]),
    ("TEXT", ["--gin_file=data/text.gin", f"--gin.TEXT={URL}"]),
    ("TEXT", ["--gin_file=data/jsonl.gin", f"--gin.TEXT={URL}/a.jsonl"]),
    ("TEXT", ["--gin_file=data/tfrecord.gin", f"--gin.TEXT={URL}"]),
    ("TEXT", ["--gin_file=data/mixture.gin", f"--gin.TEXTS=('{URL}', 'b')", "--gin.RATES=(1, 1)"]),
    ("VOCAB_MODEL", ["--gin_file=data/vocabulary_file.gin", f"--gin.VOCAB_MODEL={URL}"]),
    ("TASK_MODULE", ["--gin_file=data/seqio_mixture.gin", "--gin.MIXTURE_OR_TASK_NAME=a", MODULE]),
    ("The gin file", [f"--gin_file={URL}/own.gin"]),
    ("--gin_search_paths", [f"--gin_search_paths={URL}"]),
]


@pytest.mark.parametrize(("name", "arguments"), REFUSED)
def test_a_recipe_with_a_url_is_not_built(name, arguments):
    with pytest.raises(
        UserError, match=rf"(^|: ){re.escape(name)} 'gs://[^\n]*' is a URL, [^\n]*: copy or mount it\.$"
    ):
        configured(parse_flags(["--gin_file=spactor.gin", *arguments], ""), Recipe)


def test_the_module_of_one_task_is_refused_before_it_is_looked_for():
    arguments = ["--gin_file=data/seqio_task.gin", "--gin.MIXTURE_OR_TASK_NAME=a", MODULE]
    recipe = configured(parse_flags(["--gin_file=spactor.gin", *arguments], ""), Recipe)
    with pytest.raises(UserError, match=r"^TASK_MODULE 'gs://[^']*' is a URL"):
        recipe.dataset.prepare()


def test_urls_of_other_commands_are_refused(monkeypatch):
    with pytest.raises(UserError, match=r"^MINIMAL_PAIRS 'gs://[^']*' is a URL"):
        read_pairs(URL, None)
    with pytest.raises(UserError, match=r"^--prompt_file 'gs://[^']*' is a URL"):
        decode.prompts(decode.parse(["--gin_file=spactor.gin", f"--prompt_file={URL}"])[0])
    with pytest.raises(UserError, match=r"^The checkpoint 'gs://[^']*' is a URL"):
        load_checkpoint(URL)
    monkeypatch.setenv("MIXLM_CACHE", URL)
    with pytest.raises(UserError, match=r"^MIXLM_CACHE 'gs://[^']*' is a URL"):
        cache_folder(None)


def test_tfds_reads_buckets_itself():
    recipe = configured(
        parse_flags(["--gin_file=spactor.gin", "--gin_file=data/c4.gin", f"--gin.TFDS_DATA_DIR={URL}"], ""), Recipe
    )
    assert recipe.dataset.task.source.data_dir == URL


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    home = Path("/home/someone")
    assert RunRef.parse("~/runs/a@best") == RunRef(home / "runs/a", "best")
    arguments = ["--gin_file=spactor.gin", "--gin.MODEL_DIR=~/runs/a", "--gin.CACHE_DIR=~/cache"]
    recipe = configured(parse_flags(arguments, ""), Recipe)
    assert (recipe.folder, recipe.dataset.cache) == (home / "runs/a", home / "cache")
    # Where a run lies is no part of whose run it is.
    assert recipe.identity() == configured(parse_flags(arguments[:1], ""), Recipe).identity()
