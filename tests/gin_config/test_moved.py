"""Gin files written for 0.4.3: a person's gets a sentence with the new place, a run's own record is read as it is."""

import importlib
import json
import tarfile

import pytest
from support.places import GOLDEN

from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.gin_config.moved import MOVED, new_modules
from mixlm.recipe import Recipe

# What the gin files of 0.4.3 named in modules that have moved since.
NAMED = {
    "curriculum": "Blocks Curriculum Stage", "data.corpora": "JsonLines Tfds", "data.mixture": "Dataset",
    "data.parts": "Mixture Part of_texts", "data.sources": "SotU TextFiles", "data.tfrecord": "TFRecords",
    "data.vocabulary": "SentencePieceFile TrainedSentencePiece", "losses": "CrossEntropy Focal MiLe",
    "models.decoder": "DecoderOnly", "models.stack": "Execution", "objectives.mix": "PerExample",
    "optim": "Adafactor AdamW LAMB Muon Optimizer", "partitioning": "Partitioning", "scoring.run": "Scoring",
}  # fmt: skip


@pytest.fixture
def sentence(tmp_path):
    """The sentence that spactor.gin, with these lines behind it, is refused with."""

    def refused(*lines):
        (tmp_path / "mine.gin").write_text("\n".join(("from __gin__ import dynamic_registration", *lines)) + "\n")
        with pytest.raises(UserError) as caught:
            configured(parse_flags(["--gin_file=spactor.gin", f"--gin_file={tmp_path / 'mine.gin'}"], ""), Recipe)
        return str(caught.value).removeprefix(f"{tmp_path / 'mine.gin'}, ")

    return refused


@pytest.mark.parametrize("module", MOVED)
def test_every_new_place_exists_and_is_another(module):
    assert new_modules(f"mixlm.{module}") != [f"mixlm.{module}"]
    for new in new_modules(module):
        importlib.import_module(new)


@pytest.mark.parametrize("module", NAMED)
def test_what_gin_files_named_is_in_one_of_the_new_places(module):
    places = [importlib.import_module(new) for new in new_modules(module)]
    for name in NAMED[module].split():
        assert any(hasattr(place, name) for place in places), name


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["from mixlm import partitioning"], "line 2: there is no module 'mixlm.partitioning'. "
         "Since mixlm 0.5.0 it is mixlm.parallel.mesh."),
        (["import mixlm.models.decoder"], "line 2: there is no module 'mixlm.models.decoder'. "
         "Since mixlm 0.5.0 it is mixlm.models.t5_decoder."),
        (["from mixlm.data import corpora"], "line 2: there is no module 'mixlm.data.corpora'. "
         "Since mixlm 0.5.0 it is mixlm.data.sources.jsonl and mixlm.data.sources.tfds."),
        (["from mixlm.scoring import run"], "line 2: there is no module 'mixlm.scoring.run'. "
         "Since mixlm 0.5.0 it is mixlm.evaluation.run."),
        (["from mixlm.data import sources", "sources.SotU.period = 1"], "line 3: mixlm.data.sources has no 'SotU'. "
         "Since mixlm 0.5.0 it is mixlm.data.sources.sotu.SotU."),
        (["from mixlm.models import decoders"], "line 2: there is no module 'mixlm.models.decoders'. "
         "Did you mean 't5_decoder'?"),
    ],
)  # fmt: skip
def test_an_old_name_gets_the_sentence_with_the_new_place(sentence, lines, said):
    assert sentence(*lines) == said


def test_a_module_of_ones_own_that_imports_an_old_one_is_told_so_too(sentence, tmp_path, monkeypatch):
    (tmp_path / "my_objective.py").write_text("from mixlm.corruption import span_mask\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sentence("import my_objective") == (
        "line 2: my_objective imports mixlm.corruption. "
        "Since mixlm 0.5.0 it is mixlm.objectives.corruption and mixlm.rng."
    )


@pytest.fixture(params=["same_tokens", "other_tokens"])
def old_run(request, tmp_path):
    """The folder of a run that 0.4.3 trained."""
    with tarfile.open(GOLDEN / "runs" / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path / "run", filter="data")
    return tmp_path / "run"


def test_the_record_of_an_old_run_builds_its_recipe(old_run):
    built = configured(parse_flags([f"--gin_file={old_run / 'config.gin'}"], ""), Recipe)
    # The record holds the fingerprints of the data and the vocabulary besides.
    assert built.identity().items() <= json.loads((old_run / "recipe.json").read_text()).items()
    # Its text is split as then, and that of today's runs as their record says.
    assert built.dataset.task.source.hold_out_by == "name"
    # What is built from it is named as it is now, so that the next record is read without a translation.
    (old_run / "next.gin").write_text(built.config)
    assert configured(parse_flags([f"--gin_file={old_run / 'next.gin'}"], ""), Recipe) == built


def test_a_copy_of_that_record_elsewhere_is_a_file_like_any_other(old_run, tmp_path):
    (tmp_path / "config.gin").write_text((old_run / "config.gin").read_text())
    with pytest.raises(UserError, match=r"Since mixlm 0\.5\.0 it is mixlm\.objectives\.curriculum\."):
        configured(parse_flags([f"--gin_file={tmp_path / 'config.gin'}"], ""), Recipe)


def test_the_record_of_a_run_of_today_is_read_with_the_split_of_today(old_run):
    record = json.loads((old_run / "recipe.json").read_text()) | {"held_out": "by content"}
    (old_run / "recipe.json").write_text(json.dumps(record))
    built = configured(parse_flags([f"--gin_file={old_run / 'config.gin'}"], ""), Recipe)
    assert built.dataset.task.source.hold_out_by == "content"
