# ruff: noqa: E402
"""How long the compiled train step takes, against this machine's rate of matrix products: python benchmarks/step.py.

Each case is timed in turns with a large float32 product in the same process, which is the ceiling. A row has the
median step and its spread, tokens a second, the FLOPs of the step's matrix products counted from its jaxpr, all FLOPs
by XLA (which counts a loop once), and the share of the ceiling: products / (time * ceiling). Cases of one family share
the rounds, so that the median of their ratios, with its 95% interval, holds on a busy machine as well. `--ops N` adds
where the time of a step goes; `--json FILE` writes it all. `--peers` times decoder-bench in turns with PyTorch's step
of the same Llama, eager and compiled (pip install -e '.[peers]'; any build of torch runs on a CPU).
With `--microbatches` the cases are the default recipes and both benches in 1, 2, 4 and 8 microbatches, each against the
whole batch: what MICROBATCHES gains and loses.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
import jax.numpy as jnp
import numpy as np

from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.models.llama import Llama
from mixlm.models.t5 import EncoderDecoder
from mixlm.objectives.base import Objective
from mixlm.objectives.causal import Causal
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.optim.adafactor import Adafactor
from mixlm.optim.adamw import AdamW
from mixlm.optim.optimizer import Optimizer
from mixlm.parallel.mesh import Partitioning
from mixlm.perf.malloc import keep_freed
from mixlm.recipe import Recipe
from mixlm.schedules import Constant
from mixlm.tokens import TokenIds
from mixlm.training.executables import Executables
from mixlm.training.initial_state import initial_state
from mixlm.training.step import TrainStep

CEILING = 4096  # rows and columns of the product that is the ceiling


@dataclass
class Case:
    """A step to be timed: networks, an objective, and blocks of text."""

    name: str
    modules: dict[str, Any]
    objective: Objective
    optimizer: Optimizer
    batch_size: int
    block_length: int
    vocab_size: int
    microbatches: int = 1

    @cached_property
    def _made(self) -> tuple[Any, Any]:
        mesh = Partitioning().mesh(jax.devices()[:1])
        create, shapes = initial_state(self.modules, self.optimizer, 0, mesh)
        step = TrainStep(tuple(self.modules.items()), self.optimizer, self.microbatches)
        batch = {"tokens": jax.ShapeDtypeStruct((self.batch_size, self.block_length), np.int32)}
        seed = jax.ShapeDtypeStruct((), np.int32)
        return create, Executables(step, shapes, batch, seed, donate_argnums=0)

    def begin(self) -> None:
        """Compiles, and takes the first step."""
        create, executables = self._made
        self.flops = executables.matmul_flops(self.objective)
        self.compiled = executables.compile(self.objective).result()
        costs = self.compiled.cost_analysis()
        self.xla_flops = (costs[0] if isinstance(costs, list) else costs)["flops"]
        self.temporaries = self.compiled.memory_analysis().temp_size_in_bytes
        self.step, self.state, self.times = executables[self.objective], create(), []
        rows = np.random.default_rng(0).integers(200, self.vocab_size - 200, (self.batch_size, self.block_length))
        self.batch, self.seed = {"tokens": jnp.asarray(rows, jnp.int32)}, jnp.int32(0)
        self.run()
        self.times.clear()

    def run(self) -> None:
        """Takes a step and notes how long it took."""
        begun = time.perf_counter()
        self.state, figures = self.step(self.state, self.batch, self.seed)
        jax.block_until_ready((self.state, figures))
        self.times.append(time.perf_counter() - begun)


def t5_bench(microbatches: int = 1) -> Case:
    """T5 1.1 of 4 + 4 layers with the span corruption of 512 / 114 tokens."""
    sizes = {"emb_dim": 256, "num_heads": 4, "head_dim": 64, "mlp_dim": 512}
    network = EncoderDecoder(vocab_size=32128, num_encoder_layers=4, num_decoder_layers=4, **sizes)
    tokens = TokenIds(vocab_size=32128, mask=4, bos=3, sentinels=100)
    objective = SpanCorruption(tokens)
    length = objective.block_length({"inputs": 512, "targets": 114})
    label = "t5-bench" if microbatches == 1 else f"in {microbatches} parts"
    optimizer = Optimizer(Adafactor(), Constant(0.01), None)
    return Case(label, {"model": network}, objective, optimizer, 8, length, 32128, microbatches)


def decoder_bench(microbatches: int = 1) -> Case:
    """A Llama of 6 layers, 16 rows of 256 tokens."""
    sizes = {"emb_dim": 256, "num_heads": 4, "head_dim": 64, "mlp_dim": 688, "num_layers": 6}
    network = Llama(vocab_size=8192, logits_via_embedding=True, **sizes)
    objective = Causal(TokenIds(vocab_size=8192, mask=4, bos=3, sentinels=100))
    label = "decoder-bench" if microbatches == 1 else f"in {microbatches} parts"
    optimizer = Optimizer(AdamW(), Constant(1e-3))
    return Case(label, {"model": network}, objective, optimizer, 16, 256, 8192, microbatches)


def of_recipe(name: str, *more: str, start: int = 0, label: str | None = None, lone: bool = False) -> Case:
    """A recipe's step at its small size, in the stage in force at step `start`; `lone` leaves out other networks."""
    recipe = configured(parse_flags([f"--gin_file={name}.gin", *more], ""), Recipe).settled(unique_tokens=None)
    objective = recipe.stages.at(start).objective
    networks = {key: network for key, network in recipe.networks.items() if not lone or key in objective.networks}
    return Case(
        label or name, networks, objective, recipe.optimizer, recipe.batch_size, recipe.block_length,
        recipe.tokens.vocab_size, recipe.microbatches,
    )  # fmt: skip


def antlm(name: str, masked: bool = False) -> Case:
    """A causal or a masked step of AntLM, whose number of steps follows from its text else."""
    label = ("ltg-bert" if "ltg" in name else "antlm") + ("-masked" if masked else "-causal")
    return of_recipe(name, "--gin.TRAIN_STEPS=600", start=300 if masked else 0, label=label)


RECIPES = ("spactor", "dual", "ar2diff", "gpt_bert", "antlm", "antlm_ltg_bert", "mile")
FAMILIES = {
    "t5-bench": lambda: [t5_bench()],
    "decoder-bench": lambda: [decoder_bench(), decoder_bench(4)],
    "spactor": lambda: [
        of_recipe("spactor", label="spactor-1"),
        of_recipe("spactor", start=10**6, label="spactor-2"),
        of_recipe("spactor", start=10**6, label="spans-alone", lone=True),
    ],
    "dual": lambda: [of_recipe("dual"), of_recipe("dual", "--gin.ALPHA=1", label="dual-causal")],
    "ar2diff": lambda: [of_recipe("ar2diff", label="ar2diff-1"), of_recipe("ar2diff", start=10**6, label="ar2diff-2")],
    "gpt_bert": lambda: [of_recipe("gpt_bert")],
    "antlm": lambda: [antlm("antlm"), antlm("antlm", masked=True)],
    "antlm_ltg_bert": lambda: [antlm("antlm_ltg_bert"), antlm("antlm_ltg_bert", masked=True)],
    "mile": lambda: [of_recipe("mile"), of_recipe("mile", "--gin.TOKEN_LOSS=@losses.CrossEntropy()", label="mile-ce")],
}


def with_peers() -> list[Any]:
    """decoder-bench, in one part and in four, and PyTorch's two steps of it."""
    from step_peers import Peer

    case = decoder_bench()
    return [case, decoder_bench(4), Peer("torch eager", case, False), Peer("torch compiled", case, True)]


def of_recipe_in(name: str) -> Callable[[int], Case]:
    """A recipe's step as a function of the number of microbatches."""
    return lambda count: of_recipe(
        name, f"--gin.MICROBATCHES={count}", label=name if count == 1 else f"in {count} parts"
    )


DEFAULT = sorted(path.stem for path in (ROOT / "gin").glob("*.gin") if "\nRECIPE = " in path.read_text())
PARTED = {"t5-bench": t5_bench, "decoder-bench": decoder_bench, **{name: of_recipe_in(name) for name in DEFAULT}}
PARTS = (1, 2, 4, 8)


def in_parts(name: str) -> list[Case]:
    """A case in one microbatch and in more."""
    return [PARTED[name](count) for count in PARTS]


def measure(cases: list[Any], rounds: int, against_first: bool = False) -> list[dict[str, Any]]:
    """Times a family's cases and the ceiling in turns; each is compared with the one before, or with the first."""
    x = jnp.ones((CEILING, CEILING), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    for case in cases:
        case.begin()
    ceilings = []
    for count in range(rounds):
        begun = time.perf_counter()
        product(x, x).block_until_ready()
        ceilings.append(2 * CEILING**3 / (time.perf_counter() - begun))
        for case in cases[:: 1 if count % 2 else -1]:
            case.run()
    ceiling = statistics.median(ceilings)
    found = [row(case, ceiling) for case in cases]
    for before, case, line in zip(cases[:1] * len(cases) if against_first else cases, cases[1:], found[1:]):
        line["of_the_first" if against_first else "of_the_one_before"] = median_and_bounds(
            [b / a for a, b in zip(before.times, case.times)]
        )
    return found


def median_and_bounds(values: list[float]) -> list[float]:
    """A median and, by order statistics, its 95% interval."""
    ranked, half, spread = sorted(values), len(values) / 2, 0.98 * math.sqrt(len(values))
    low, high = max(math.floor(half - spread), 0), min(math.ceil(half + spread), len(values) - 1)
    return [statistics.median(ranked), ranked[low], ranked[high]]


def row(case: Any, ceiling: float) -> dict[str, Any]:
    """A line of the table."""
    median = statistics.median(case.times)
    return {
        "case": case.name,
        "ms": 1e3 * median,
        "fastest_ms": 1e3 * min(case.times),
        "slowest_ms": 1e3 * max(case.times),
        "tokens_per_second": case.batch_size * case.block_length / median,
        "matmul_gflop": case.flops / 1e9,
        "xla_gflop": case.xla_flops / 1e9,
        "temporaries_mb": case.temporaries / 1e6,
        "ceiling_gflops": ceiling / 1e9,
        "share_of_ceiling": case.flops / (median * ceiling),
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", help=f"some of {', '.join(dict.fromkeys((*FAMILIES, *PARTED)))}")
    parser.add_argument("--recipes", action="store_true", help="the recipes at their default sizes alone")
    parser.add_argument("--microbatches", action="store_true", help="the cases in several microbatches")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ops", type=int, default=0, metavar="N", help="the N longest kinds of operations")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--peers", action="store_true", help="decoder-bench alone, next to PyTorch's steps of it")
    given = parser.parse_args()
    families = {name: partial(in_parts, name) for name in PARTED} if given.microbatches else FAMILIES
    if given.recipes:
        families = {name: family for name, family in families.items() if name in RECIPES}
    if given.peers:
        families = {"peers": with_peers}
    for name in given.cases or ():
        if name not in families:
            parser.error(f"there is no case {name}: {', '.join(families)}")
    keep_freed()
    device = jax.devices()[0]
    print(f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}")
    print(
        f"{'case':<15}{'ms':>8}{'fastest':>9}{'slowest':>9}{'tokens/s':>10}{'GFLOP':>8}{'XLA':>8}"
        f"{'ceiling':>9}{'share':>7}  of the {'first' if given.microbatches else 'one before'}"
    )
    rows = []
    for name in given.cases or families:
        cases = families[name]()
        for case, found in zip(cases, measure(cases, given.rounds, given.microbatches)):
            beside = found.get("of_the_first") or found.get("of_the_one_before")
            print(
                f"{case.name:<15}{found['ms']:>8.0f}{found['fastest_ms']:>9.0f}{found['slowest_ms']:>9.0f}"
                f"{found['tokens_per_second']:>10,.0f}{found['matmul_gflop']:>8.1f}{found['xla_gflop']:>8.1f}"
                f"{found['ceiling_gflops']:>9.0f}{found['share_of_ceiling']:>7.2f}"
                + (" {:>7.3f} ({:.3f} to {:.3f})".format(*beside) if beside else ""),
                flush=True,
            )
            if given.ops and isinstance(case, Case):
                from step_ops import kinds

                found["operations"] = kinds(case, given.ops)
                for operation, milliseconds in found["operations"]:
                    print(f"  {milliseconds:>9.1f} ms  {operation}")
            rows.append(found)
    if given.json:
        Path(given.json).write_text(json.dumps({"device": device.device_kind, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
