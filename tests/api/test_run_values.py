"""The API's functions on one trained run: what they return, how it is shown, and how mistakes end."""

import html.parser
import json
import logging
import os
import re
import signal
import sys
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mixlm
from mixlm.analysis.style import Png
from mixlm.api import tokens
from mixlm.api.functions import checked
from mixlm.api.runtime import run_flops, spoken
from mixlm.decoding.autoregressive import context_example
from mixlm.errors import UserError
from mixlm.models.t5_decoder import DecoderOnly
from mixlm.reports.metrics import Progress
from mixlm.schedules import Constant

SIZE = {"vocab_size": 112, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16, "num_layers": 1}


def recipe(corpus, folder, **changes):
    settings = {
        "TRAIN_STEPS": 4,
        "MODEL_DIR": folder,
        "NETWORKS": {"model": DecoderOnly(**SIZE)},
        "VOCAB_SIZE": 112,
        "BATCH_SIZE": 8,
        "EVAL_BATCHES": 1,
        "VALIDATION": (),
        "LEARNING_RATE_SCHEDULE": Constant(0.01),  # not a function of the run's length
        "LOG_PERIOD": 1,
        "TASK_FEATURE_LENGTHS": {"targets": 32},
        "TokenIds.sentinels": 20,
        "TrainedSentencePiece.sentinels": 20,
    }
    return mixlm.load_recipe("dual.gin", text=corpus, **(settings | changes))


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Runs on one device, which compiles sooner."""
    devices = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices)
        yield


def process_state():
    # tensorboardX sets the first when it is imported, pytest the second.
    theirs = ("CRC32C_SW_MODE", "PYTEST_CURRENT_TEST")
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    return (
        sys.unraisablehook,
        list(logging.getLogger("absl").filters),
        {name: value for name, value in os.environ.items() if name not in theirs},
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        [getattr(jax.config, name) for name in names],
    )


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A run that was trained here, what it said, and the process's state before and after."""
    said, before = [], process_state()
    run = mixlm.train(recipe(corpus, tmp_path_factory.mktemp("runs") / "a"), said.append)
    return run, said, before, process_state()


@pytest.fixture(scope="module")
def run(trained):
    return trained[0]


class Balanced(html.parser.HTMLParser):
    """Fails where a tag is not closed."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def shown(value) -> str:
    """What a notebook shows of a value: well-formed HTML."""
    text = value._repr_html_()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    return text


def test_training_changes_nothing_of_the_process(trained):
    _, _, before, after = trained
    for here, there in zip(after, before, strict=True):
        assert here == there


def test_a_run_has_its_metrics_as_a_table(run):
    assert run.metrics["step"] == [1, 2, 3, 4] and run.step == 4 and run.finished
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert run.metrics.rows == lines
    assert repr(run) == f"Run({str(run.folder)!r}, finished after step 4)"


def test_a_run_is_found_by_its_folder_and_builds_its_recipe_again(run):
    again = mixlm.Run(run.folder)
    assert again.recipe == run.recipe and again.recipe.identity() == run.recipe.identity()
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)
    at_step = mixlm.Run(f"{run.folder}@4")
    jax.tree.map(np.testing.assert_array_equal, at_step.params, run.params)


def test_a_folder_that_was_moved_is_still_its_run(run, tmp_path):
    moved = tmp_path / "moved"
    moved.symlink_to(run.folder)
    assert mixlm.Run(moved).recipe.folder == moved


def test_curves_are_a_figure_without_pyplot(run, monkeypatch):
    from matplotlib.figure import Figure

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # Importing it raises.

    figure = run.curves("tokens")
    assert isinstance(figure, Figure) and figure._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(run.curves().axes) == 2 * len(figure.axes)
    with pytest.raises(UserError, match=r"not 'flop'\. Did you mean 'flops'\?"):
        run.curves("flop")


def test_a_notebook_shows_a_runs_curves_and_last_figures(run):
    text = shown(run)
    assert "data:image/png;base64," in text and "finished after step 4" in text
    assert f"{run.metrics['loss'][-1]:.4f}" in text


def test_examples_are_those_of_the_report_and_show_their_corruption(run):
    examples = run.examples()
    assert str(examples) in (run.folder / "samples.txt").read_text()
    kinds = {piece.kind for example in examples for piece in (*example.reads, *example.says, *example.model)}
    assert {"text", "masked", "scored"} <= kinds and kinds & {"right", "wrong"}
    text = shown(examples)
    assert text.count('title="masked"') == sum(p.kind == "masked" for e in examples for p in e.reads) + 1
    assert "<mask>" not in text and "&lt;mask&gt;" in text


def test_explaining_trains_nothing_and_shows_examples(corpus, tmp_path):
    said = []
    explained = mixlm.explain(recipe(corpus, tmp_path / "none"), said.append)
    assert "stage mix" in str(explained) and "examples of mix" in str(explained)
    assert repr(explained) == str(explained) and not (tmp_path / "none").exists()
    assert 'title="masked"' in shown(explained)


def test_scores_are_a_table_with_a_row_for_each_mode(run):
    scores = mixlm.evaluate(run, modes=["causal", "prefix"], rows=4, say=lambda _: None)
    assert scores["mode"] == ["causal", "prefix"]
    assert scores["perplexity"][0] == pytest.approx(np.exp(scores["nats_per_token"][0]))
    assert "<td>causal</td>" in shown(scores) and "perplexity" in str(scores)
    assert not (run.folder / "evaluation").exists()
    frame = pytest.importorskip("pandas") and scores.to_pandas()
    assert list(frame.columns) == scores.columns and len(frame) == 2


def test_a_text_is_scored_by_itself_as_a_file_and_as_a_folder(run, tmp_path):
    text = "The baker finds a boat near the mill. No senator sells the bread on Sundays."
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(text)
    (tmp_path / "lines.jsonl").write_text(json.dumps({"text": text}))
    figures = [
        mixlm.evaluate(run, text=each, modes="causal", say=lambda _: None).figures["causal"]
        for each in (text, tmp_path / "one.txt", str(tmp_path / "lines.jsonl"))
    ]
    assert len({(each.tokens, each.bytes, each.nats_per_token) for each in figures}) == 1
    assert figures[0].bytes == len(text.encode())
    (tmp_path / "lines.jsonl").unlink()
    both = mixlm.evaluate(run, text=tmp_path, modes="causal", say=lambda _: None).figures["causal"]
    assert both.tokens == 2 * figures[0].tokens
    assert both.nats_per_token == pytest.approx(figures[0].nats_per_token, rel=1e-5)


def test_minimal_pairs_add_their_columns(run, tmp_path):
    lines = [{"sentence_good": "The baker finds a boat.", "sentence_bad": "The baker find a boat.", "UID": "agreement"}]
    (tmp_path / "agreement.jsonl").write_text("\n".join(map(json.dumps, lines)))
    scores = mixlm.evaluate(run, minimal_pairs=tmp_path, modes="causal", rows=2, resamples=10, say=lambda _: None)
    assert scores["overall"][0] in (0.0, 50.0, 100.0)
    assert scores.accuracies["causal"].paradigms.keys() == {"agreement"}


def test_prompts_are_continued_as_values_that_print(run):
    found = mixlm.decode(run, ["The baker", "No senator"], how="masked", max_tokens=4, steps=2, show_steps=True)
    assert [each.prompt for each in found] == ["The baker", "No senator"]
    assert all(len(each.states) == len(each.steps) == 3 for each in found)
    for each in found:
        assert [step.count("_") for step in each.steps] == [4, 2, 0]
        assert shown(type(found)([each])).count("<td") == 3 * (1 + 4)
    assert str(found).count("continuation") == 2
    assert "<b>" in shown(found)
    assert mixlm.decode(run.folder, "The baker", max_tokens=4)[0].tokens


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: mixlm.Run(run.folder.parent / "b"), r"There is no run in .*/b .* Did you mean '.*/a'\?"),
        (lambda run: checked("dual.gin"), r"build it with mixlm.load_recipe\('dual.gin'\)"),
        (lambda run: checked(3), "not a value of type int"),
        (lambda run: mixlm.evaluate(run, modes="casual", say=lambda _: None), "Did you mean 'causal'"),
        (lambda run: mixlm.evaluate(run, row=3), "no setting 'row'.* Did you mean 'rows'"),
        (lambda run: mixlm.evaluate(run, text="missing.txt", say=lambda _: None), "no file or folder 'missing.txt'"),
        (lambda run: mixlm.evaluate(run, text="  ", say=lambda _: None), "no token"),
        (lambda run: mixlm.evaluate(run, text="A text.", rows=3), "a text is scored whole"),
        (lambda run: mixlm.decode(run, ["The baker"], how="maskd"), "Did you mean 'masked'"),
        (lambda run: mixlm.decode(run, ["The baker"], how="masked", beams=3), "beams"),
        (lambda run: mixlm.decode(run, ""), "no tokens"),
        (lambda run: mixlm.train(run.recipe, profile="3"), "START:STOP|profile"),
    ],
)
def test_a_mistake_is_one_sentence_and_no_exit(run, call, said):
    with pytest.raises(UserError, match=said) as caught:
        call(run)
    assert "\n" not in str(caught.value)


def test_a_run_of_another_recipe_follows_in_the_same_process_and_the_first_goes_on(run, corpus, tmp_path):
    other = mixlm.train(recipe(corpus, tmp_path / "b", ALPHA=0.75, TRAIN_STEPS=2), lambda _: None)
    assert other.step == 2 and other.metrics["loss"] != run.metrics["loss"][:2]
    # The same first two steps, then the rest of them: as if there had been no other run between.
    first = mixlm.train(recipe(corpus, tmp_path / "c", TRAIN_STEPS=2), lambda _: None)
    whole = mixlm.train(recipe(corpus, tmp_path / "c", TRAIN_STEPS=4), lambda _: None)
    assert first.folder == whole.folder and whole.step == 4
    assert mixlm.Run(other.folder).recipe == other.recipe != whole.recipe
    with pytest.raises(UserError, match="holds another run"):
        mixlm.train(recipe(corpus, tmp_path / "c", TRAIN_STEPS=4, ALPHA=0.75), lambda _: None)


def test_training_in_a_thread_takes_no_signal_handler(corpus, tmp_path):
    found = []
    made = recipe(corpus, tmp_path / "threaded", TRAIN_STEPS=1)
    thread = threading.Thread(target=lambda: found.append(mixlm.train(made, lambda _: None)))
    thread.start()
    thread.join()
    assert found[0].finished


def test_a_run_made_in_python_asks_for_its_recipe(run, tmp_path):
    folder = tmp_path / "python"
    folder.mkdir()
    (folder / "recipe.json").write_text("{}")
    (folder / "config.gin").write_text("")
    made = mixlm.Run(folder)
    assert repr(made).endswith("no step logged yet)") and shown(made)
    with pytest.raises(UserError, match="give it as Run"):
        _ = made.recipe


def test_progress_in_a_notebook_is_a_bar(monkeypatch, capsys):
    kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel))
    with Progress(10, 0) as progress:
        progress.update(5, "mix", {"loss": 1.0})
        progress.say("Saved.")
    shown = capsys.readouterr().err
    assert re.search(r"5/10 \|", shown) and "Saved." in shown


def test_a_pair_of_ones_own_costs_what_its_sentences_cost_as_texts(run):
    good, bad = "a cat sat", "a cat sits"
    found = mixlm.judge(run, good, bad, "causal")
    for name, sentence in (("good", good), ("bad", bad)):
        text = mixlm.evaluate(run, text=sentence, modes="causal")[0]
        np.testing.assert_allclose(-found[0][name], text["nats_per_token"] * text["tokens"], rtol=1e-4)
    assert found[0]["right"] == (found[0]["good"] > found[0]["bad"])
    coloured = found.shaded("causal")
    for row, name in zip(coloured.rows, ("good", "bad"), strict=True):
        np.testing.assert_allclose(sum(token.value for token in row), -found[0][name], rtol=1e-4)
    assert "good" in shown(coloured)
    with pytest.raises(UserError, match="Did you mean 'causal'"):
        found.shaded("casual")


SENTENCE = "The farmer sells the bread near the mill."


def test_token_scores_are_those_of_an_evaluation(run):
    scores = mixlm.token_scores(run, SENTENCE)
    whole = mixlm.evaluate(run, text=SENTENCE, modes="causal")[0]
    assert len(scores) == whole["tokens"]
    np.testing.assert_allclose(np.mean(scores["nats"]), whole["nats_per_token"], rtol=1e-4)
    assert "".join(scores["text"]).strip() == SENTENCE
    # An entropy is that of a distribution over the vocabulary.
    assert min(scores["entropy"]) > 0 and max(scores["entropy"]) <= np.log(SIZE["vocab_size"]) + 1e-5
    assert shown(scores.shaded("nats")).count("<span") > len(scores)
    with pytest.raises(UserError, match=r"not 'entropie'\. Did you mean 'entropy'"):
        scores.shaded("entropie")


def test_token_scores_are_those_of_a_forward_pass(run):
    scores, vocabulary = mixlm.token_scores(run, SENTENCE), run.recipe.dataset.load_vocabulary(lambda _: None)
    ids = np.asarray(vocabulary.encode(SENTENCE)[: len(scores)], np.int32)
    read = context_example(jnp.asarray([[3, *ids[:-1]]], jnp.int32), jnp.ones((1, len(ids)), jnp.int32))
    logits = DecoderOnly(**SIZE).apply({"params": run.params["model"]}, read)[0]
    log_p = jax.nn.log_softmax(np.asarray(logits, np.float64))
    np.testing.assert_allclose(scores["nats"], -log_p[np.arange(len(ids)), ids], rtol=1e-4)
    np.testing.assert_allclose(scores["entropy"], -(np.exp(log_p) * log_p).sum(1), rtol=1e-4)
    assert scores["likeliest"] == [each.replace("\u2581", " ") for each in vocabulary.pieces(log_p.argmax(1).tolist())]
    counts = run.recipe.dataset.prepare(lambda _: None).token_counts()
    assert scores["occurrences"] == counts[ids].tolist() and max(scores["occurrences"]) > 0


def test_losses_by_frequency_are_those_of_validation_in_batches_of_any_size(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(tokens, "frequency_figure", lambda *given: drawn.append(given) or Png())
    for rows in (16, 3):
        monkeypatch.setattr(tokens, "BATCH_ROWS", rows)
        mixlm.loss_by_frequency({"a": run, "b": run}, rows=4, bins=5)
    (whole, counts, bins), (parts, *_) = drawn
    data = run.recipe.dataset.prepare(lambda _: None)
    ids = data.validation_rows(32, 4).reshape(-1)
    assert list(whole) == ["a", "b"] and bins == 5 and counts.tolist() == data.token_counts()[ids].tolist()
    np.testing.assert_allclose(parts["b"], whole["a"], rtol=1e-5)
    row = mixlm.token_scores(run, data.vocabulary.decode(ids[:32].tolist()))
    assert whole["a"].shape == (128,) and 0 < whole["a"].mean() < 2 * np.mean(row["nats"])
    with pytest.raises(UserError, match=r"^There are no runs to compare"):
        mixlm.loss_by_frequency({})


def test_fresh_parameters_pay_the_logarithm_of_the_vocabulary(run):
    fresh, trained = (mixlm.loss_terms(each, SENTENCE, rows=4) for each in (run.recipe, run))
    terms = {row["term"]: row for row in fresh}
    assert terms["causal"]["mean"] == pytest.approx(np.log(SIZE["vocab_size"]), rel=0.3)
    for row in fresh:
        assert row["adds"] == pytest.approx(row["weight"] * row["total"] / max(row["count"], 1))
    assert trained["mean"] != fresh["mean"] and trained["term"] == fresh["term"]


def test_a_sentence_is_shown_as_its_objectives_corrupt_it(run):
    rows = mixlm.corrupt(run, SENTENCE, rows=4)
    assert {row.part for row in rows} == {"causal", "masked_diffusion"}
    for row in rows:
        told = "".join(piece.text for piece in row.says).split()
        assert (told == SENTENCE.split()) is (row.part == "causal")
    assert mixlm.attention_masks(run, SENTENCE, rows=4)._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"^The text is empty"):
        mixlm.corrupt(run, " ")


def test_a_runtime_estimates_more_for_more_steps(corpus, tmp_path):
    here = mixlm.runtime()
    assert here.flops > 1e8 and here.devices == 1 and str(here).startswith("1 x CPU: measured ")
    made = [recipe(corpus, tmp_path / name, TRAIN_STEPS=steps) for name, steps in (("a", 4), ("b", 40))]
    short, long = (run_flops(each) for each in made)
    assert long == (pytest.approx(10 * short[0]), 40) and short[0] > 0
    assert [spoken(seconds) for seconds in (0.04, 90, 600, 9000)] == ["0.0 s", "90 s", "10 min", "2.5 h"]
