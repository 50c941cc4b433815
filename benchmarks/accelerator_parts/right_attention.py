"""Every path of attention that "auto" can choose against plain attention in float32 at the highest precision.

The error of an array is `||found - wanted|| / ||wanted||`, of the output at queries that are no padding and of the
gradients for queries, keys, values and bias. A path passes where each of its errors is at most `FACTOR` times plain
attention's own in that dtype, plus `FLOOR`; plain attention's own are at most `PLAIN`.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from record import Record

from mixlm.models.attention.choice import BEST
from mixlm.models.attention.dispatch import RUNS, AdditiveView, attention, make_biased_view, make_view
from mixlm.models.attention.masks import AttentionMask, cross_mask, self_mask
from mixlm.models.attention.proof import Kernel, how_it_differs
from mixlm.perf.kernel_proofs import noted

FACTOR, FLOOR = 3.0, {"bfloat16": 1e-3, "float32": 1e-6}
# Ours: of products in bfloat16, and of products of float32 in TF32 or in one pass of bfloat16.
PLAIN = {"bfloat16": 2e-2, "float32": 2e-2}
HEADS, WIDTH = 8, 64
KERNELS = {"SplashView": "splash", "VmemView": "resident", "CudnnView": "cudnn"}
IN_PROGRAM = {"cudnn": "fmha", "splash": "tpu_custom_call", "resident": "tpu_custom_call"}
MASKS = ("causal", "bidirectional", "prefix", "mixed", "packed", "padding")
Sizes = tuple[int, int, int, int, int]  # rows, heads, queries, keys, width


def cases(record: Record, pool: Executor) -> Iterator[None]:
    """Runs the cases, those that say most first; yields after each."""
    cpu = jax.default_backend() == "cpu"
    rows, heads = (4, 2) if cpu else (4, HEADS)
    plans: list[tuple[str, str, bool, Sizes]] = []
    for dtype, biased in (("bfloat16", False), ("bfloat16", True), ("float32", False), ("float32", True)):
        for length in (128,) if record.tiny else (512, 128, 1024, 4096):
            name = f"attention/{dtype}/{'bias' if biased else 'mask'}/{length}"
            plans.append((name, dtype, biased, (rows, heads, length, length, WIDTH)))
        if dtype == "bfloat16" and not biased and not record.tiny:
            # What a kernel's limits are about: other keys than queries, an odd length, and heads of other widths.
            odd = {"across": (114, 512, WIDTH), "odd": (127, 127, WIDTH), "narrow": (128, 128, 32)}
            odd |= {"wide": (512, 512, 128), "widest": (512, 512, 256), "uneven": (128, 128, 36)}
            plans += [(f"attention/{dtype}/mask/{name}", dtype, biased, (rows, heads, *of)) for name, of in odd.items()]
    wanted = [plan for plan in plans if record.wants(plan[0])]
    made = {plan[0]: _compiled(pool, *plan[1:]) for plan in wanted}
    for name, dtype, biased, sizes in wanted:
        record.case(name, lambda n=name, d=dtype, b=biased, s=sizes: _compared(made.pop(n), d, b, s))
        yield
    if (kernel := BEST.get(jax.default_backend())) is not None:
        record.case(f"attention/proof/{kernel}", lambda: _proof(kernel))
        yield


def _proof(name: str) -> dict[str, Any]:
    """What a kernel's own proof says; its seconds are those that the first start of a run takes, compiling included."""
    found = how_it_differs(Kernel(name, "bfloat16", 2, WIDTH, 1024, 1024, False), RUNS[name])
    return {"right": not found, "said": found or "right"}


def mask_of(kind: str, sizes: Sizes) -> AttentionMask:
    """A mask of this kind; across two sequences, whatever its kind, of documents with padding."""
    rows, _, length, keys, _ = sizes
    places = np.arange(length)
    if length != keys:
        segments = [np.minimum(1 + 3 * np.arange(size) // size, 2) for size in (length, keys)]
        for x, size in zip(segments, (length, keys)):
            x[-size // 8 :] = 0
        return cross_mask(*(jnp.asarray(np.broadcast_to(x, (rows, len(x))), jnp.int32) for x in segments))
    steps, segments = np.ones((rows, length), np.int32), np.ones((rows, length), np.int32)
    packed = 1 + np.searchsorted([length // 5, length // 2, length - length // 8], places, side="right")
    if kind == "bidirectional":
        steps[:] = 0
    elif kind == "prefix":
        steps[:] = places >= length // 3
    elif kind == "mixed":
        steps[1::4], steps[2::4] = 0, places >= length // 3
        segments[3::4] = packed
    elif kind == "packed":
        segments[:] = packed
    elif kind == "padding":
        segments[:] = places < np.linspace(length // 2, length, rows, dtype=int)[:, None]
    return self_mask(jnp.asarray(steps), jnp.asarray(segments))


def ways_here(biased: bool, sizes: Sizes) -> tuple[str, ...]:
    """The implementations to compare; on a CPU the splash kernel runs interpreted, at the shortest lengths alone."""
    interpreted = jax.default_backend() == "cpu" and not biased and sizes[2] <= 128
    return ("auto", "recomputed", *(["splash"] if interpreted else []))


def _view(way: str, mask: AttentionMask, bias: Any, dtype: str, sizes: Sizes) -> Any:
    of = SimpleNamespace(num_heads=sizes[1], head_dim=sizes[4], dtype=dtype)
    with noted():  # The kernel itself is compared here, whatever its own proof says.
        return make_view(of, mask, way) if bias is None else make_biased_view(of, mask, bias, way)


def _program(way: str, dtype: str, sizes: Sizes) -> Callable[..., Any]:
    def loss(inputs: Any, mask: AttentionMask, weights: Any) -> Any:
        q, k, v, *bias = inputs
        view = _view(way, mask, bias[0] if bias else None, dtype, sizes)
        mixed = attention(q, k, v, view, scale=sizes[4] ** -0.5).astype(jnp.float32)
        mixed = jnp.where((mask.query_segments > 0)[..., None], mixed, 0.0)
        return jnp.sum(mixed * weights), mixed

    return jax.jit(jax.grad(loss, has_aux=True))


def _inputs(dtype: str, biased: bool, sizes: Sizes) -> tuple[Any, Any]:
    """(queries, keys, values and the bias; what the output is multiplied by)."""
    rows, heads, length, keys, width = sizes
    rng = np.random.default_rng(length)

    def drawn(*shape: int) -> Any:
        return rng.standard_normal(shape, np.float32)

    inputs = [jnp.asarray(drawn(rows, heads, size, width), dtype) for size in (length, keys, keys)]
    inputs += [jnp.asarray(drawn(1, heads, length, keys))] if biased else []
    return tuple(inputs), jnp.asarray(drawn(rows, length, heads * width))


def _compiled(pool: Executor, dtype: str, biased: bool, sizes: Sizes) -> dict[str, Future[Any]]:
    """Programs by name, compiled ahead: "reference", "plain", and what is compared."""

    def make(way: str, of: str, precision: str | None) -> Any:
        shapes = jax.eval_shape(lambda: (_inputs_shape(of, biased, sizes), mask_of("causal", sizes)))
        weights = jax.ShapeDtypeStruct((sizes[0], sizes[2], sizes[1] * sizes[4]), jnp.float32)
        with jax.default_matmul_precision(precision):
            return _program(way, of, sizes).lower(*shapes, weights).compile()

    found = {"reference": pool.submit(make, "plain", "float32", "highest")}
    return found | {way: pool.submit(make, way, dtype, None) for way in ("plain", *ways_here(biased, sizes))}


def _inputs_shape(dtype: str, biased: bool, sizes: Sizes) -> tuple[Any, ...]:
    rows, heads, length, keys, width = sizes
    inputs = [jnp.zeros((rows, heads, size, width), dtype) for size in (length, keys, keys)]
    return tuple(inputs + ([jnp.zeros((1, heads, length, keys))] if biased else []))


def _compared(programs: dict[str, Future[Any]], dtype: str, biased: bool, sizes: Sizes) -> dict[str, Any]:
    """Errors of every path under every mask, the path that "auto" is, and milliseconds forward and backward."""
    inputs, weights = _inputs(dtype, biased, sizes)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), inputs)
    found: dict[str, Any] = {"path": _path(dtype, biased, sizes), "right": True, "errors": {}, "ms": {}, "failed": {}}
    kernel = BEST.get(jax.default_backend(), "plain")
    if kernel != "plain" and found["path"] in ("plain", "recomputed"):
        found["no_kernel"] = f"auto is {found['path']} here, and not {kernel}"
    reference = programs["reference"].result()
    ways: dict[str, Any] = {}
    for way in ("plain", *ways_here(biased, sizes)):
        try:
            ways[way] = programs[way].result()
        except Exception as error:
            found["failed"][way], found["right"] = f"{type(error).__name__}: {error}"[:600], False
    if "auto" in ways and found["path"] in IN_PROGRAM:
        found["kernel_in_program"] = IN_PROGRAM[found["path"]] in ways["auto"].as_text()
    for kind in MASKS if sizes[2] == sizes[3] else ("packed",):
        mask = mask_of(kind, sizes)
        wanted = reference(exact, mask, weights)
        for way, run in ways.items():
            errors = _errors(run(inputs, mask, weights), wanted)
            found["errors"].setdefault(way, {})[kind] = errors
            bad = _beyond(way, errors, found["errors"].get("plain", {}).get(kind), dtype)
            if bad:
                found["right"] = False
                found.setdefault("different", []).append(f"{way}, {kind}: {bad}")
    mask = mask_of("causal", sizes)
    for way, run in ways.items():
        found["ms"][way] = _milliseconds(lambda run=run: run(inputs, mask, weights))
    worst = {way: max(max(x.values()) for x in masks.values()) for way, masks in found["errors"].items()}
    shown = ", ".join(f"{way} {error:.1e} {found['ms'][way]:.2f} ms" for way, error in worst.items())
    state = "right" if found["right"] else f"WRONG {found.get('different', [])[:2]} {found['failed']}"
    return found | {"said": f"{state}; auto is {found['path']}; {shown}"}


def _path(dtype: str, biased: bool, sizes: Sizes) -> str:
    """The path that "auto" is here."""
    seen: list[str] = []

    def look() -> Any:
        bias = jnp.zeros((1, sizes[1], sizes[2], sizes[3])) if biased else None
        view = _view("auto", mask_of("causal", sizes), bias, dtype, sizes)
        plain = "plain" if not isinstance(view, AdditiveView) or view.keep else "recomputed"
        seen.append(KERNELS.get(type(view).__name__, plain))
        return jnp.zeros(())

    jax.eval_shape(look)
    return seen[0]


def _errors(found: Any, wanted: Any) -> dict[str, float]:
    (gradients, out), (other, exact) = found, wanted
    names = ("out", "dq", "dk", "dv", "dbias")
    pairs = zip((out, *gradients), (exact, *other))
    return {name: float(_distance(a, b)) for name, (a, b) in zip(names, pairs)}


@jax.jit
def _distance(a: Any, b: Any) -> Any:
    return jnp.linalg.norm(a.astype(jnp.float32).ravel() - b.ravel()) / jnp.linalg.norm(b.ravel())


def _beyond(way: str, errors: dict[str, float], plain: dict[str, float] | None, dtype: str) -> str:
    """The arrays of a path that are too far off, in words; empty where none is."""
    if way == "plain" or plain is None:
        allowed = dict.fromkeys(errors, PLAIN[dtype])
    else:
        allowed = {name: FACTOR * plain[name] + FLOOR[dtype] for name in errors}
    bad = [name for name in errors if not errors[name] <= allowed[name]]
    return ", ".join(f"{name} {errors[name]:.1e} over {allowed[name]:.1e}" for name in bad)


def _milliseconds(run: Callable[[], Any], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        jax.block_until_ready(run())
        times.append(1e3 * (time.perf_counter() - begun))
    return round(statistics.median(times), 3)
