# ruff: noqa: E402
"""How fast the host makes batches, and how that compares with what the train step takes: python benchmarks/data.py.

Prints a table of tokens per second of the data alone (one text, a mixture of three, and four epochs that end), then for
every recipe at its small size the step's own rate, measured here with a fixed batch and with the data read beside it,
and for the papers' sizes the rate that their FLOPs allow at this machine's own rate of matrix products. `--json FILE`
writes the same. Text: the State of the Union messages.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import numpy as np

from mixlm.data.dataset import Dataset
from mixlm.data.loader.batches import Batches
from mixlm.data.mixture import Mixture, Part
from mixlm.data.sources.sotu import SotU
from mixlm.data.sources.text import TextFiles
from mixlm.data.tasks import TextTask
from mixlm.data.vocabulary import TrainedSentencePiece
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.recipe import Recipe
from mixlm.training.prepare import prepare

RECIPES = ("spactor", "dual", "gpt_bert", "antlm", "ar2diff", "mile")
BLOCK_LENGTHS = (128, 568, 1024, 2048)
ROWS = 64


def data_rate(walk, batch_size: int, seconds: float, start: int = 0) -> float:
    """Tokens a second that the walk's batches hold, read ahead as in a run, nothing else beside."""
    batches = Batches(walk, batch_size).iterate(start)
    for _ in range(10):  # What is ready when the clock starts was made before.
        _, batch = next(batches)
    steps, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < seconds:
        next(batches)
        steps += 1
    batches.close()
    return steps * batch["tokens"].size / elapsed


def three_texts(folder: Path) -> Mixture:
    """The messages in three folders by their years, mixed 6 : 3 : 1."""
    documents = list(SotU().documents("train"))
    parts = []
    for number, name in enumerate(("early", "middle", "late")):
        (folder / name).mkdir()
        for index, document in enumerate(documents[number * 80 : (number + 1) * 80]):
            (folder / name / f"{index:03}.txt").write_text(document, encoding="utf-8")
        parts.append(Part(TextTask(name, TextFiles(str(folder / name)), TrainedSentencePiece(8192))))
    return Mixture(tuple(parts), (0.6, 0.3, 0.1))


def data_rates(seconds: float) -> list[dict[str, object]]:
    """The rates of the data alone, by kind and length of block."""
    one = Dataset(TextTask("sotu", SotU(), TrainedSentencePiece(8192))).prepare()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        three = three_texts(Path(folder)).prepare()
        for length in BLOCK_LENGTHS:
            walks = {"one text": one.train(length, 0), "three texts": three.train(length, 0)}
            walks["four epochs"] = one.train(length, 0, 4)
            for kind, walk in walks.items():
                # The fourth of four epochs, so that what is read is text and not the padding behind it.
                start = 3 * one.summary.unique_tokens // (length * ROWS) if kind == "four epochs" else 0
                rate = data_rate(walk, ROWS, seconds, start)
                found.append({"data": kind, "block_length": length, "tokens_per_second": rate})
    return found


def matmul_rate() -> float:
    """FLOP/s of a float32 product of matrices on this machine, the best of several."""
    x = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - begun)
    return 2 * 2048**3 / min(times)


def recipe_of(name: str, *more: str) -> Recipe:
    """A recipe as the command line builds it."""
    return configured(parse_flags([f"--gin_file={name}.gin", *more], ""), Recipe)


def step_rates(name: str, steps: int) -> dict[str, object]:
    """A small recipe's tokens a second: of the data alone, of the step on one batch, and of both together."""
    recipe = recipe_of(name)
    prepared = prepare(recipe, recipe.dataset.prepare())
    recipe = prepared.recipe
    batches = Batches(prepared.train_blocks, recipe.batch_size, before=recipe.before)
    objective = recipe.stages.at(0).objective
    executable, seed, state = prepared.train_step[objective], prepared.scalar(recipe.seed), prepared.init_state()
    tokens = recipe.batch_size * recipe.block_length
    fixed = prepared.shard_batch(batches.batch(0))

    def timed(feed) -> float:
        nonlocal state
        state, figures = executable(state, feed(), seed)
        jax.block_until_ready(figures)
        begun = time.perf_counter()
        for _ in range(steps):
            state, figures = executable(state, feed(), seed)
        jax.block_until_ready(figures)
        return steps * tokens / (time.perf_counter() - begun)

    walk = batches.iterate()
    feeds = {"fixed": lambda: fixed, "with_data": lambda: prepared.shard_batch(next(walk)[1])}
    rates: dict[str, list[float]] = {kind: [] for kind in feeds}
    for _ in range(3):  # in turns, so that what else the machine does falls on both
        for kind, feed in feeds.items():
            rates[kind].append(timed(feed))
    walk.close()
    prepared.close()
    data = data_rate(prepared.train_blocks, recipe.batch_size, 1.0)
    step, both = (float(np.median(rates[kind])) for kind in ("fixed", "with_data"))
    return {
        "recipe": name, "measured": True, "block_length": recipe.block_length, "data_tokens_per_second": data,
        "step_tokens_per_second": step, "ratio": data / step, "with_data_over_fixed": both / step,
    }  # fmt: skip


def paper_rates(name: str, machine: float, data: list[dict[str, object]]) -> dict[str, object]:
    """What a paper's size could take at best on this machine, and the FLOP/s that the data here would feed."""
    recipe = recipe_of(name, f"--gin_file=scale/{name}.gin")
    prepared = prepare(recipe, None)
    recipe = prepared.recipe
    flops = prepared.flops_until(recipe.steps) / recipe.steps
    prepared.close()
    tokens = recipe.batch_size * recipe.block_length
    nearest = min(BLOCK_LENGTHS, key=lambda length: abs(length - recipe.block_length))
    rate = next(
        float(row["tokens_per_second"])
        for row in data
        if (row["data"], row["block_length"]) == ("three texts", nearest)
    )
    step = tokens / (flops / machine)
    return {
        "recipe": f"scale/{name}", "measured": False, "block_length": recipe.block_length,
        "data_tokens_per_second": rate, "step_tokens_per_second": step, "ratio": rate / step,
        "fed_flops_per_second": rate * flops / tokens,
    }  # fmt: skip


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each rate of the data alone")
    parser.add_argument("--steps", type=int, default=20, help="of each small recipe, three times")
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    data = data_rates(given.seconds)
    print(f"\n{'data alone':<14}{'block':>7}{'tokens/s':>14}")
    for row in data:
        print(f"{row['data']:<14}{row['block_length']:>7}{row['tokens_per_second']:>14,.0f}")
    machine = matmul_rate()
    print(f"\nmatrix products here: {machine / 1e9:.0f} GFLOP/s on {os.cpu_count()} cores")
    print(f"\n{'recipe':<16}{'block':>7}{'data tok/s':>14}{'step tok/s':>14}{'ratio':>10}  with data / fixed batch")
    rows = []
    for name in given.recipes:
        rows.append(step_rates(name, given.steps))
        _show(rows[-1], f"{rows[-1]['with_data_over_fixed']:.3f}, measured")
    for name in given.recipes:
        rows.append(paper_rates(name, machine, data))
        _show(rows[-1], f"from FLOPs; this data feeds {rows[-1]['fed_flops_per_second'] / 1e12:,.0f} TFLOP/s")
    if given.json:
        result = {"data": data, "recipes": rows, "matmul_flops_per_second": machine, "cores": os.cpu_count()}
        Path(given.json).write_text(json.dumps(result, indent=1))


def _show(row: dict[str, object], note: str) -> None:
    print(
        f"{row['recipe']:<16}{row['block_length']:>7}{row['data_tokens_per_second']:>14,.0f}"
        f"{row['step_tokens_per_second']:>14,.0f}{row['ratio']:>10,.0f}  {note}",
        flush=True,
    )


if __name__ == "__main__":
    main()
