"""A mixture of texts is written in gin, on the command line or in a file of the user's."""

import pytest
from support.places import GIN

from mixlm.data.mixture import Mixture, Part
from mixlm.data.sources.auto import Text
from mixlm.data.tasks import TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.recipe import Recipe


def built(*arguments: str) -> Recipe:
    return configured(parse_flags(["--gin_file=dual.gin", "--gin_file=data/mixture.gin", *arguments], ""), Recipe)


def test_a_mixture_is_written_on_the_command_line():
    own = ("--gin.TEXTS=('wiki/', 'books.jsonl')", "--gin.UNIQUE_TOKENS=(100000, None)")
    made = built(*own, "--gin.RATES=(0.7, 0.3)", "--gin.VALIDATION_FRACTION=0.1", "--gin.VOCAB_SIZE=512")
    spec = TrainedSentencePiece(512)
    parts = [
        Part(TextTask(name, Text(path, validation_fraction=0.1), spec, add_bos=True), budget)
        for name, path, budget in (("wiki", "wiki/", 100000), ("books", "books.jsonl", None))
    ]
    assert made.dataset == Mixture(tuple(parts), (0.7, 0.3)) and made.tokens.vocab_size == 512
    assert [part.task.source.path for part in made.dataset.parts] == ["wiki/", "books.jsonl"]
    staged = built(*own, "--gin.RATES=((1, 1), (0.2, 0.8))", "--gin.RATE_STARTS=(0, 50)").dataset
    assert (staged.stages, staged.starts) == ([(1, 1), (0.2, 0.8)], (0, 50))
    ended = built(*own, "--gin.EPOCHS=(1, 4)", "--gin.TRAIN_STEPS=None")
    assert (ended.dataset.epochs, ended.epochs, ended.ends_with_data) == ((1, 4), None, True)
    file = built(
        *own,
        "--gin.RATES=(1, 1)",
        "--gin_file=data/vocabulary_file.gin",
        "--gin.VOCAB_MODEL=m",
        "--gin.DOCUMENT_BOS=False",
        "--gin.ROW_BOS=True",
    )
    assert {part.task.vocabulary.path for part in file.dataset.parts} == {"m"}
    with pytest.raises(UserError, match="RATES and EPOCHS both say"):
        built(*own, "--gin.RATES=(1, 1)", "--gin.EPOCHS=(1, 4)")


def test_parts_of_different_kinds_are_written_as_the_files_comment_says(tmp_path):
    comment = (GIN / "data" / "mixture.gin").read_text()
    example = [line[4:] for line in comment.splitlines() if line.startswith("#   ")]
    names = ("data import mixture", "data import tasks", "data.sources import jsonl", "data.sources import tfds")
    imports = ["from __gin__ import dynamic_registration", *(f"from mixlm.{name}" for name in names)]
    (tmp_path / "own.gin").write_text("\n".join([*imports, *example]) + "\n")
    made = built(f"--gin_file={tmp_path / 'own.gin'}", "--gin.RATES=(1, 1)").dataset
    assert made.names == ["wikipedia", "talk"]
    assert [part.unique_tokens for part in made.parts] == [100_000_000, None]
    assert made.parts[0].task.source.name == "wikipedia/20230601.en" and made.parts[1].task.source.path == "talk/"


def test_epochs_are_a_macro_of_every_recipe():
    made = configured(parse_flags(["--gin_file=gpt_bert.gin", "--gin.EPOCHS=4", "--gin.TRAIN_STEPS=None"], ""), Recipe)
    assert (made.epochs, made.train_steps) == (4, None)
    settled = made.settled(1000, rows=64)
    assert settled.train_steps == 4 and "Linear(start=0.3, end=0.15, steps=4" in repr(settled.stages)
