"""The studies that come with mixlm: their cells are those of their READMEs, and together they are few programs."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from support.places import ROOT

from mixlm.cli.main import main
from mixlm.gin_config.flags import parse_flags
from mixlm.sweeps.sweep import Sweep, read_sweep
from mixlm.training.together import groups

STUDIES = sorted(path.stem for path in (ROOT / "studies").glob("*.gin"))
# The cells of each arm, and the sizes of the programs that train them together.
GRIDS = {
    "antlm": ({"BabyLlama": 12, "LTG-BERT": 12}, [12, 12]),
    "antlm_english": ({"BabyLlama": 12, "LTG-BERT": 12}, [12, 12]),
    "ar2diff": ({"ar": 3, "ar2diff": 12, "scratch": 3}, [3, 3, 3, 9]),
    "ar2diff_wmt": ({"ar": 3, "ar2diff": 6, "scratch": 3}, [3, 9]),
    "dual": ({"": 72}, [72]),
    "finetuning": (
        dict.fromkeys(("T5", "T5 decoder", "Llama, dual", "Llama, causal", "LTG-BERT", "GPT-BERT"), 18),
        None,  # several recipes, and what each begins from
    ),
    "mile": ({"mile": 20, "focal": 5}, [5, 20]),
    "spactor": ({"spactor": 15, "weights of 1": 3, "large generator": 3}, [3, 18]),
    "spactor_finetuned": ({"": 27}, None),
}
# What makes a cell of each tiny.
TINY = {
    "antlm": ["UNIQUE_TOKENS=400", "MADE_DOCUMENTS=100", "PAIRS=2", "SCORED_ROWS=2", "BATCH_SIZE=8"],
    "ar2diff": ["STEM_STEPS=4", "FINE_STEPS=2", "DECODED_PAIRS=4", "TIMED_LENGTHS=(4,)", "MADE_PAIRS=400"],
    "dual": ["BUDGET=20000", "TRAIN_STEPS=4", "EVAL_PERIOD=2", "CHECKPOINT_PERIOD=2", "SCORED_ROWS=2"],
    "mile": ["TRAIN_STEPS=4"],
    "spactor": ["TRAIN_STEPS=400", "EMB_DIM=16", "BATCH_SIZE=8"],
}
TINY["antlm_english"] = ["UNIQUE_TOKENS=2000", "PAIRS=2", "SCORED_ROWS=2", "BATCH_SIZE=8", "VOCAB_SIZE=320"]
TINY["antlm_english"] += ['BLIMP="made:0"', 'SUPPLEMENT="made:1"']
TINY["ar2diff_wmt"] = [*TINY["ar2diff"][:3], "DATA=wmt", "VOCAB_SIZE=320"]
TINY["finetuning"] = ["SMALL=True", "DATA=glue"]
TINY["spactor_finetuned"] = [*TINY["finetuning"], "EMB_DIM=16", "PRETRAINED=stems"]
TINY["ar2diff_wmt"] += ["WARMUP_STEPS=1", 'DECODINGS=("autoregressive","unrolled steps=2 samples=2")']
TINY["ar2diff"] += ["WARMUP_STEPS=1", 'DECODINGS=("autoregressive","unrolled steps=2 samples=2")']
AXES = {
    "antlm": [],
    "antlm_english": ["SCHEDULE=24 clm"],
    "ar2diff": ["ADAPT=0.0,0.5"],
    "ar2diff_wmt": ["ADAPT=0.0,1.0"],
    "finetuning": ["TASK=sst2", "INIT_FROM=scratch"],  # what cells begin from is pretrained at its whole size
    "dual": ["ALPHA=1.0,0.0", "REPEATS=4"],
    "mile": ["GAMMA=0.0,1.0"],
    "spactor": ["TAU=0,400"],
    "spactor_finetuned": ["TASK=sst2", "PRETRAINED_TAU=0"],
}
# The study that a study goes on from, and what makes a cell of it tiny.
BEFORE = {
    "spactor_finetuned": ("spactor", ["TAU=0"], ["SMALL=True", "TRAIN_STEPS=4", "CHECKPOINT_PERIOD=4", "EMB_DIM=16"])
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder with small data of the tasks that studies read."""
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / name for name in ("wmt", "glue/SST-2", "glue/CoLA", "glue/RTE")]
    for folder in folders:
        folder.mkdir(parents=True)
    words = ["a boat", "the farmer sells", "her own house", "no friends"]
    for language in ("en", "de"):
        lines = [f"{words[n % 4]} and {words[n % 3]} {n}" for n in range(200)]
        (folders[0] / f"train.{language}").write_text("\n".join(lines))
    for folder, fields in zip(folders[1:], (["sentence"], ["sentence"], ["sentence1", "sentence2"])):
        for split, count in (("train", 40), ("dev", 10)):
            rows = ["\t".join([*fields, "label"])]
            rows += ["\t".join([*(words[(n + k) % 4] for k, _ in enumerate(fields)), str(n % 2)]) for n in range(count)]
            (folder / f"{split}.tsv").write_text("\n".join(rows))


# What a study needs of the reader's own.
OWN = {
    "antlm_english": ["--gin.BLIMP=made:0", "--gin.SUPPLEMENT=made:1"],
    "ar2diff_wmt": ["--gin.DATA=wmt"],
    "finetuning": ["--gin.DATA=glue"],
    "spactor_finetuned": ["--gin.DATA=glue"],
}


def study(name: str, *flags: str) -> Sweep:
    return read_sweep(parse_flags([f"--gin_file={ROOT / 'studies' / name}.gin", *OWN.get(name, []), *flags], ""))


def test_every_study_has_a_readme_with_its_rules_and_a_folder_of_its_name():
    assert set(STUDIES) == set(GRIDS)
    for name in STUDIES:
        text = (ROOT / "studies" / name / "README.md").read_text(encoding="utf-8")
        order = [text.index(title) for title in ("## Claim", "## Design", "## Rules of the verdicts", "## Result")]
        assert order == sorted(order)
        assert f"mixlm sweep --gin_file=studies/{name}.gin" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_the_cells_are_those_that_the_readme_counts(name):
    found = study(name)
    arms, sizes = GRIDS[name]
    own = [cell for cell in found.cells if not cell.is_stem]
    assert Counter(cell.arm for cell in own) == arms
    recipes = list(found.check().values())
    if sizes is not None:
        assert sorted(map(len, groups(recipes, 100))) == sizes
    text = (ROOT / "studies" / name / "README.md").read_text(encoding="utf-8")
    (cells,) = set(re.findall(r": (\d+) cells", text))
    assert int(cells) == len(own)
    assert len(study(name, "--gin.SMALL=True").check()) < len(recipes)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_claim_is_about_places_of_the_grid_and_deciding_metrics(name):
    found = study(name)
    for claim in found.study.claims:
        claim = json.loads(json.dumps(claim))
        metrics = [claim["metric"], *([claim["beside"]] if "beside" in claim else [])] if "metric" in claim else []
        assert set(metrics) <= set(found.study.metrics)
        overs = claim.get("over", [])
        for selector in [claim.get("arm", {}), *(overs if isinstance(overs, list) else [overs])]:
            wanted = {**selector, **claim.get("where", {})}
            matching = [
                cell
                for cell in found.cells
                if all((cell.arm if key == "arm" else cell.axes.get(key)) == value for key, value in wanted.items())
            ]
            assert {cell.seed for cell in matching} == set(found.study.grid.seeds), wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("antlm", "scale/antlm"),
        ("ar2diff", "models/decoder_280m"),  # its task is made, whatever the size
        ("dual", "scale/dual"),
        ("mile", "scale/mile"),
        ("spactor", "scale/spactor"),
    ],
)
def test_the_paper_s_size_is_one_more_file(name, file):
    found = study(name, f"--gin_file={file}.gin")
    assert len(found.check()) == sum(GRIDS[name][0].values())


def test_a_macro_that_formulas_alone_read_is_given_on_the_command_line():
    found = study("dual", "--gin.BUDGET=640000")
    assert {cell.values["UNIQUE_TOKENS"] for cell in found.cells} == {640000, 160000, 40000, 10000}
    assert found.recipe(found.cells[-1]).dataset.unique_tokens == 10000


def test_a_reduced_study_keeps_what_the_command_line_gives():
    found = study("dual", "--gin.SMALL=True", "--gin.TRAIN_STEPS=9")
    assert {found.recipe(cell).train_steps for cell in found.cells[:2]} == {9}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_micro_version_runs_from_the_sweep_to_its_table(name, monkeypatch, capsys):

    def sweep(study: str, axes: list[str], settings: list[str], folder: str) -> None:
        flags = [f"--gin.{each}" for each in [*settings, "EVAL_BATCHES=1", f"STUDY_FOLDER={folder}"]]
        flags += [f"--sweep.{each}" for each in axes]
        file = f"--gin_file={ROOT / 'studies' / study}.gin"
        monkeypatch.setattr("sys.argv", ["mixlm", "sweep", file, "--seeds=1", *flags])
        main()

    if name in BEFORE:
        sweep(*BEFORE[name], "stems")
    sweep(name, AXES[name], TINY[name], "here")
    assert "failed" not in capsys.readouterr().out
    with open("here/cells.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["last"] == "True"]
    told = json.loads(Path("here/study.json").read_text(encoding="utf-8"))
    assert {row["cell"] for row in rows} == {cell["cell"] for cell in told["cells"]}
    assert {row["status"] for row in rows} == {"done"}
    for metric in (metric.removeprefix("best:") for metric in told["metrics"]):
        if "unrolled" not in metric:  # whose steps and samples are fewer here
            assert all(row[metric] for row in rows), metric
