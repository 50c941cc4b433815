"""BabyLM's suites are read in their formats, and answered in the layout of its collation."""

import json
import shutil

import numpy as np
import pytest
from scipy.stats import spearmanr

from mixlm.cli.babylm import main as command
from mixlm.cli.babylm import parse
from mixlm.errors import UserError
from mixlm.interop.babylm.rounds import rounds_of
from mixlm.interop.babylm.run import Judge, Plan, answered, evaluate, spearman
from mixlm.interop.babylm.suites import SUITES, choices
from mixlm.interop.babylm.words import acquisition_words, reading_words

FILES = {
    "blimp_fast/wh.jsonl": [
        {"sentence_good": "aa", "sentence_bad": "aaaa", "UID": "wh_island", "field": "syntax", "linguistics_term": "x"},
        {"sentence_good": "aaa", "sentence_bad": "aa", "UID": "wh_island", "field": "syntax", "linguistics_term": "x"},
    ],
    "supplement_fast/hypernym.jsonl": [{"sentence_good": "a", "sentence_bad": "aa"}],
    "ewok_fast/social.jsonl": [
        {"Domain": "social", "Context1": "aa", "Context2": "b", "Target1": "a", "Target2": "aa",
         "ContextType": "direct", "ContextDiff": "x", "TargetDiff": "y"},
    ],
    "entity_tracking_fast/regular.jsonl": [{"input_prefix": "aa", "options": [" aaa", " a"], "numops": 2}],
    "comps/comps_wugs_dist-before.jsonl": [
        {"prefix_acceptable": "a", "prefix_unacceptable": "aaa", "property_phrase": "is a"}
    ],
    "wug_past_tense/wug.jsonl": [
        {"sentences": "a\taa", "ratio": "0.9"}, {"sentences": "aaa\ta", "ratio": 0.2}, {"sentences": "a\ta", "ratio": 1}
    ],
}  # fmt: skip


@pytest.fixture
def data(tmp_path):
    for name, records in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "reading").mkdir()
    (tmp_path / "reading" / "reading_data.csv").write_text(
        'item,word,prev_item,prev_word,length\n"aa, a",aaa,aa,a,3\n,a,,,1\n'
    )
    (tmp_path / "aoa").mkdir()
    contexts = [{"context": "aa "}, {"context": "a"}]
    (tmp_path / "aoa" / "cdi_childes.json").write_text(json.dumps({"dog": contexts, "a": contexts}))
    return tmp_path


class Shortest(Judge):
    """Finds a text as likely as it is short."""

    def __init__(self, folder):
        object.__setattr__(self, "folder", folder)

    def scores(self, texts):
        return np.asarray([-float(len(text)) for _, text, _, _ in texts])

    def surprisals(self, words):
        return [float(len(each.word)) for each in words]


def judge(folder, revision="chck_1M"):
    return Shortest(folder / "out" / "run" / revision / "zero_shot" / "causal")


def suite(folder):
    return next(each for each in SUITES if each.folder == folder)


def test_every_format_gives_its_choices(data):
    def read(name):
        return [(each.uid, each.texts, each.said, each.ratio) for each in choices(suite(name), data)]

    assert read("blimp_fast")[0] == ("wh_island", (("", "aa"), ("", "aaaa")), ("aa", "aaaa"), None)
    assert read("supplement_fast") == [("hypernym", (("", "a"), ("", "aa")), ("a", "aa"), None)]
    assert read("ewok_fast") == [("social", (("aa", " a"), ("aa", " aa")), (" a", " aa"), None)]
    assert read("entity_tracking_fast") == [("regular_2_ops", (("aa", " aaa"), ("aa", " a")), (" aaa", " a"), None)]
    assert read("comps") == [("wugs_dist_before", (("a", " is a"), ("aaa", " is a")), ("is a", "is a"), None)]
    assert [each[::3] for each in read("wug_past_tense")] == [("wug_past", 0.9), ("wug_past", 0.2), ("wug_past", 1.0)]


def test_predictions_and_figures_are_those_of_the_choices(data):
    answers, figures = answered(judge(data), suite("blimp_fast"), choices(suite("blimp_fast"), data))
    said = [{"id": "wh_island_0", "pred": "aa"}, {"id": "wh_island_1", "pred": "aa"}]
    assert answers == {"wh_island": {"predictions": said}}
    assert figures == {"average": 50.0, "kinds": {"wh_island": 50.0}}
    answers, figures = answered(judge(data), suite("wug_past_tense"), choices(suite("wug_past_tense"), data))
    chances = [each["prob"] for each in answers["wug_past"]["predictions"]]
    assert chances == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(2)), 0.5])
    assert figures["average"] == pytest.approx(100 * spearmanr(chances, [0.9, 0.2, 1.0])[0])


def test_rank_correlation_is_scipy_s():
    draw = np.random.default_rng(0)
    for _ in range(20):
        left, right = draw.integers(0, 5, (2, 12)).astype(float).tolist()
        assert spearman(left, right) == pytest.approx(spearmanr(left, right)[0])


def test_results_lie_where_the_collation_reads_them(data):
    plan = Plan.of(data)
    found = dict(evaluate(plan, judge(data), "chck_1M"))
    assert list(found) == [
        "blimp_fast", "supplement_fast", "ewok_fast", "entity_tracking_fast", "comps", "wug_past_tense", "reading",
        "aoa",
    ]  # fmt: skip
    place = data / "out" / "run" / "chck_1M" / "zero_shot" / "causal"
    written = {str(path.relative_to(place)) for path in place.rglob("*.json")}
    assert written == {
        "blimp/blimp_fast/predictions.json",
        "blimp/supplement_fast/predictions.json",
        "ewok/ewok_fast/predictions.json",
        "entity_tracking/entity_tracking_fast/predictions.json",
        "comps/comps/predictions.json",
        "wug_past/wug_past_tense/predictions.json",
        "reading/predictions.json",
        "figures.json",
    }
    reading = json.loads((place / "reading" / "predictions.json").read_text())["reading"]["predictions"]
    assert reading[0] == {"id": 0, "pred": 3.0, "prev_pred": 1.0} and np.isnan(reading[1]["prev_pred"])
    list(evaluate(plan, judge(data, "chck_2M"), "chck_2M"))
    list(evaluate(plan, judge(data), "chck_1M"))
    aoa = data / "out" / "run" / "main" / "zero_shot" / "causal" / "AoA_word" / "surprisal.json"
    results = json.loads(aoa.read_text())["results"]
    assert sorted(each["step"] for each in results) == ["chck_1M"] * 2 + ["chck_2M"] * 2
    assert results[0] | {"step": ""} == {
        "step": "", "target_word": "dog", "context_id": 0, "context": "aa ", "surprisal": 3.0
    }  # fmt: skip


def test_words_come_with_their_contexts(data):
    (first, before), (second, none) = reading_words(data)
    assert (first.context, first.word, before.context, before.word) == ("aa, a", "aaa", "aa", "a")
    assert (second.context, none) == ("None", None)
    assert [each.word.context for each in acquisition_words(data / "aoa" / "cdi_childes.json")] == ["aa ", "a "]


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"sentence_good": "a", "sentence_bda": "b"}, r"line 1: 'sentence_bad' is missing; there are sentence_good, "),
        ({"sentence_good": "a", "sentence_bad": 3}, r"'sentence_bad' is no str"),
    ],
)
def test_a_record_without_a_field_says_which_it_has(tmp_path, record, sentence):
    (tmp_path / "blimp_fast").mkdir()
    (tmp_path / "blimp_fast" / "a.jsonl").write_text(json.dumps(record))
    with pytest.raises(UserError, match=sentence):
        choices(suite("blimp_fast"), tmp_path)


def test_what_is_not_there_says_where_to_put_it(tmp_path):
    with pytest.raises(UserError, match=r"has no .*ewok_filtered: put there what is so called in BabyLM's"):
        Plan.of(tmp_path, ["ewok"])
    with pytest.raises(UserError, match=r"no suite 'ewko', only blimp, .* Did you mean 'ewok'"):
        Plan.of(tmp_path, ["ewko"])
    with pytest.raises(UserError, match=r"blimp_filtered, .*cdi_childes.json: put there"):
        Plan.of(tmp_path)
    with pytest.raises(UserError, match=r"--run is missing"):
        parse(["--data=x"])
    with pytest.raises(UserError, match=r"Did you mean '--revision'"):
        parse(["--run=x", "--data=x", "--revison=y"])


@pytest.fixture
def submission(data):
    """A run that kept two checkpoints by name, and evaluation data of both sizes."""
    for name in ("full_eval", "fast_eval"):
        shutil.copytree(data / "supplement_fast", data / name / "supplement_fast")
    shutil.copytree(data / "aoa", data / "full_eval" / "aoa")
    for step, name in ((3, "chck_1M"), (20, "chck_10M"), (30, None)):
        (data / "run" / "checkpoints" / str(step)).mkdir(parents=True)
        if name:
            (data / "run" / "checkpoints" / str(step) / "names.json").write_text(json.dumps([name]))
    return data


def planned(run, data, suites=None, revision=None):
    return [
        (each.run, each.revision, each.plan.data.name, each.plan.names)
        for each in rounds_of(run, data, suites, revision)
    ]


def test_a_submission_is_the_newest_on_all_and_each_named_checkpoint_on_the_fast_data(submission):
    run, both = str(submission / "run"), {"supplement", "aoa"}
    assert planned(run, submission) == [
        (run, "main", "full_eval", both),
        (f"{run}@chck_1M", "chck_1M", "fast_eval", both),
        (f"{run}@chck_10M", "chck_10M", "fast_eval", both),
    ]
    assert planned(f"{run}@chck_1M", submission) == planned(run, submission)[1:2]
    assert planned(f"{run}@30", submission, revision="chck_2M") == [(f"{run}@30", "chck_2M", "fast_eval", both)]
    assert planned(run, submission, ["aoa"]) == [
        (f"{run}@{name}", name, "fast_eval", {"aoa"}) for name in ("chck_1M", "chck_10M")
    ]
    assert planned(f"{run}@chck_10M", submission / "full_eval") == [(f"{run}@chck_10M", "chck_10M", "full_eval", both)]
    with pytest.raises(UserError, match=r"no checkpoint by its words \(KEEP_AT_WORDS\), and of others"):
        planned(f"{run}@30", submission, ["aoa"])
    with pytest.raises(UserError, match=r"full_eval has no .*ewok_filtered: put there"):
        planned(run, submission, ["ewok"])


def test_the_command_files_each_checkpoint_under_its_name(submission, monkeypatch, capsys):
    monkeypatch.setattr("mixlm.api.run.Run", lambda address: address)
    monkeypatch.setattr("mixlm.interop.loaded.Loaded", lambda address, *_: address)
    monkeypatch.setattr(
        "mixlm.interop.babylm.run.judges", lambda run, modes, output, revision: [judge(submission, revision)]
    )
    monkeypatch.setattr(Shortest, "name", "causal", raising=False)
    monkeypatch.setattr("sys.argv", ["mixlm", f"--run={submission / 'run'}", f"--data={submission}"])
    command()
    written = {str(path.relative_to(submission / "out")) for path in (submission / "out").rglob("*.json")}
    assert {name for name in written if "figures" not in name} == {
        "run/main/zero_shot/causal/AoA_word/surprisal.json",
        *(f"run/{each}/zero_shot/causal/blimp/supplement_fast/predictions.json"
          for each in ("main", "chck_1M", "chck_10M")),
    }  # fmt: skip
    aoa = json.loads((submission / "out/run/main/zero_shot/causal/AoA_word/surprisal.json").read_text())
    assert {each["step"] for each in aoa["results"]} == {"chck_1M", "chck_10M"}
    assert capsys.readouterr().out.splitlines()[0] == "causal of main"
