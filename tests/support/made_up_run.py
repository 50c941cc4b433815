"""A made-up run: the folder that a run of two stages would leave, killed once, with examples that get better."""

import json
import math
from pathlib import Path

from mixlm.reports.examples import ExampleText, Fill, Piece
from mixlm.reports.journal import add_examples, note_end, note_start
from mixlm.reports.metrics import Recorder

STEPS, TAU, KILLED = 400, 160, 230
WORDS = [
    "The",
    "Congress",
    "of",
    "the",
    "United",
    "States",
    "shall",
    "have",
    "power",
    "to",
    "lay",
    "and",
    "collect",
    "taxes",
]
ORIGIN = {"version": "0.8.0", "commit": "1a2b3c4d5e6f", "device": "1 x cpu", "processes": "1", "jax": "0.7.2"}
SUMMARY = [
    ["recipe", "spactor, seed 0"],
    ["model", "EncoderDecoder, 421.1 k parameters"],
    ["data", "sotu: 240 documents with 1.7 M tokens to train on, 12 held out"],
    ["unique", "1.7 M tokens in 240 documents (set 998aea088ef5), each seen 2.41 times"],
    ["devices", "1 x cpu, mesh data 1"],
]


def made_up_run(folder: Path, steps: int = STEPS, every: int = 2) -> Path:
    """Writes the run; returns its folder."""
    folder.mkdir(parents=True)
    identity = {"name": "'spactor'", "seed": "0", "batch_size": "16", "data": "99" * 32, "vocabulary": "0a" * 32}
    (folder / "recipe.json").write_text(json.dumps(identity))
    (folder / "config.gin").write_text("SEED = 0\nTEXT = '<b>&'\n")
    note_start(folder, 0, ORIGIN, SUMMARY, [])
    note_start(folder, KILLED, ORIGIN, SUMMARY, [f"Not whole: the checkpoint of step {KILLED + 10} (cut short)."])
    with Recorder(folder, 0, ("jsonl",)) as recorder:
        for step in range(every, steps + 1, every):
            recorder.write(step, *line(step, steps))
            if step % 50 == 0:
                add_examples(folder, step, examples(step / steps))
    note_end(folder, "the run is complete")
    return folder


def line(step: int, steps: int):
    """(stage, figures) of a step."""
    stage, noise = ("spactor" if step <= TAU else "span_corruption"), math.sin(step * 12.9898) * 0.08
    loss = 3.1 + 4.2 * math.exp(-step / 60) + noise
    found = {"loss": loss if step > TAU else loss + 7.0, "learning_rate": 0.01 * min(1, 2 - 2 * step / steps)}
    found |= {"grad_norm": 1 + abs(noise) * 9, "train/span_corruption": loss, "train/span_corruption/accuracy": 0.3}
    if step <= TAU:
        found |= {"train/generator": loss + 0.4, "train/rtd": 0.45 + noise / 3, "train/rtd/replaced": 0.13}
    if step % 50 == 0:
        found |= {"validation/span_corruption": loss + 0.1, "validation/rtd": 0.47, "validation/rtd/replaced": 0.13}
    if step == steps:
        found |= {"yardstick/span_corruption/unigram": 6.02, "yardstick/span_corruption/bigram": 4.71}
    found |= {"tokens_per_second": 18_000 + 900 * noise, "tokens": 2048 * step, "epoch": 2048 * step / 1.7e6}
    found |= {"flops": 1.1e10 * step, "spent/spactor/steps": min(step, TAU)}
    found |= {"spent/spactor/span_corruption/tokens": 464 * min(step, TAU)}
    found |= {"spent/spactor/span_corruption/mass": 464.0 * min(step, TAU)}
    found |= {"spent/spactor/flops": 1.1e10 * min(step, TAU), "spent/spactor/flops/model": 0.8e10 * min(step, TAU)}
    found |= {"spent/spactor/flops/generator": 0.3e10 * min(step, TAU)}
    return stage, found


def examples(share: float) -> list[ExampleText]:
    """Examples of which this share is right; the generator's samples in the inputs change as well."""
    right = round(share * len(WORDS))
    reads = tuple(
        Piece(f" {word}", "replaced", "old") if index == right % len(WORDS) else Piece(f" {word}")
        for index, word in enumerate(WORDS)
    )
    model = tuple(
        Piece(f" {word}", "right") if index < right else Piece(" the", "wrong") for index, word in enumerate(WORDS)
    )
    says = tuple(Piece(f" {word}", "scored") for word in WORDS)
    whole = (*(Piece(f" {word}") for word in WORDS), Piece("<extra_id_0>", "sentinel"))
    fills = (Fill("<extra_id_0>", "and <i>collect</i>", "and" if share < 1 else "and <i>collect</i>"),)
    return [
        ExampleText("spactor", 1, whole, says, fills=fills),
        ExampleText("spactor", 2, whole, says, fills=fills),
        ExampleText("causal", 1, reads, says, model, part="causal"),
    ]
