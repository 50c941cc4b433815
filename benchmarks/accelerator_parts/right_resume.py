"""A resume to the bit on the device: six steps at once, the same command again, and three steps continued to six.

Each set of XLA's flags has a process of its own (`python right_resume.py FOLDER`), which trains with an empty cache of
executables, so that it tunes its kernels anew. A second process of the default flags tells what tuning changes.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from record import ROOT, Record

FLAGS = {
    "default": "",
    "tuned again": "",
    "deterministic": "--xla_gpu_deterministic_ops=true",
    "not tuned": "--xla_gpu_autotune_level=0",
}
DTYPES = ("bfloat16", "float32")
LIMIT, LEAST = 90.0, 30.0  # Ours: seconds of one process, and those without which none is begun


def cases(record: Record, pool: Executor) -> Iterator[None]:
    """Runs the cases; yields after each."""
    with TemporaryDirectory() as folder:
        for how, flags in FLAGS.items():
            for dtype in DTYPES:
                # Where the default is right to the bit, other flags have nothing to tell.
                if (
                    record.left > LEAST
                    and record.wants(f"resume/{how}/{dtype}")
                    and (not flags or not _default(record, dtype).get("right"))
                ):
                    record.case(
                        f"resume/{how}/{dtype}",
                        lambda h=how, f=flags, d=dtype: _measured(Path(folder, h.replace(" ", "_"), d), h, f, record),
                    )
                    yield


def _default(record: Record, dtype: str) -> dict[str, Any]:
    return record.content.get(f"resume/default/{dtype}", {})


def _measured(place: Path, how: str, flags: str, record: Record) -> dict[str, Any]:
    place.mkdir(parents=True)
    env = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(), "MIXLM_CACHE": str(place)}
    limit = min(LIMIT, record.left + 3.0)
    done = subprocess.run(
        [sys.executable, __file__, str(place)], env=env, capture_output=True, text=True, timeout=limit
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"ended with {done.returncode}"]
        return {"error": lines[-1][:500], "where": "\n".join(lines[-12:])[-1200:]}
    found = json.loads((place / "found.json").read_text())
    first = _default(record, place.name).get("digest")
    if how != "default" and first:
        found["as_default"] = found["digest"] == first
    found["right"] = not found["again"]["leaves"] and not found["resumed"]["leaves"]
    said = ", ".join(f"{name} {found[name]['leaves']} leaves differ" for name in ("again", "resumed"))
    more = f", the same as the default's first run: {found['as_default']}" if "as_default" in found else ""
    return found | {"flags": flags, "said": f"{'right' if found['right'] else 'WRONG'}; {said}{more}"}


def trained(folder: Path) -> None:
    """Trains in the dtype that the folder is named after, and writes found.json."""
    from mixlm.training import run

    run.finish = lambda *_: None  # The report and its samples have no part in the state.
    (folder / "text").mkdir()
    rng = np.random.default_rng(0)
    letters = list("abcdefghijklmnoprstuvwyz")
    words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 9, 2000)]
    for number in range(8):
        (folder / "text" / f"{number}.txt").write_text(" ".join(rng.choice(words, 600)) + "\n")
    states = {}
    for name, stops in (("whole", (6,)), ("again", (6,)), ("resumed", (3, 6))):
        for steps in stops:
            made = recipe(folder / "text", folder / name, steps, folder.name)
            run.train(made, say=lambda line: print(line, flush=True))
        states[name] = _state(made)
    whole = states["whole"]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in whole)).hexdigest()
    found = {"digest": digest} | {name: _apart(whole, states[name]) for name in ("again", "resumed")}
    (folder / "found.json").write_text(json.dumps(found))


def _apart(left: list[Any], right: list[Any]) -> dict[str, Any]:
    bad = [(a, b) for a, b in zip(left, right) if a.tobytes() != b.tobytes()]
    largest = max((float(np.max(np.abs(np.float64(a) - np.float64(b)))) for a, b in bad), default=0.0)
    return {"leaves": len(bad), "of": len(left), "largest": largest}


def recipe(text: Path, folder: Path, steps: int, dtype: str) -> Any:
    """Half of the rows causal, half masked diffusion, through two layers of Llama with AdamW."""
    from mixlm.data.dataset import Dataset
    from mixlm.data.tasks import TextFiles, TextTask
    from mixlm.data.vocabulary import TrainedSentencePiece
    from mixlm.models.llama import Llama
    from mixlm.objectives.causal import Causal
    from mixlm.objectives.curriculum import Curriculum, Stage
    from mixlm.objectives.masked_diffusion import MaskedDiffusion
    from mixlm.objectives.mixing import PerExample
    from mixlm.optim.adamw import AdamW
    from mixlm.optim.optimizer import Optimizer
    from mixlm.recipe import Recipe
    from mixlm.schedules import Constant
    from mixlm.tokens import TokenIds

    tokens = TokenIds(vocab_size=112, mask=4, bos=3, sentinels=20)
    network = Llama(vocab_size=112, emb_dim=128, num_heads=4, head_dim=32, mlp_dim=256, num_layers=2, dtype=dtype)
    objective = PerExample(objectives=(Causal(tokens), MaskedDiffusion(tokens)), shares=(0.5,))
    return Recipe(
        name="resume",
        networks={"model": network},
        curriculum=Curriculum((Stage(0, objective),)),
        dataset=Dataset(TextTask("text", TextFiles(str(text)), TrainedSentencePiece(112, sentinels=20))),
        tokens=tokens,
        optimizer=Optimizer(AdamW(), Constant(1e-3)),
        train_steps=steps,
        batch_size=16,
        lengths={"targets": 128},
        model_dir=str(folder),
        log_period=1,
        eval_period=100,
        eval_batches=1,
        checkpoint_period=3,
    )


def _state(made: Any) -> list[Any]:
    """The leaves of the newest checkpoint's parameters and optimizer state."""
    import jax

    from mixlm.checkpoints.saving import Checkpoints
    from mixlm.training.initial_state import initial_state

    shapes = initial_state(dict(made.modules), made.optimizer, made.seed, made.partitioning.mesh())[1]
    checkpoints = Checkpoints(made.folder / "checkpoints")
    restored = checkpoints.restore(shapes)
    checkpoints.close()
    if restored is None or restored[0] != 6:
        raise RuntimeError(f"{made.folder} has no checkpoint of step 6")
    return [np.asarray(leaf) for leaf in jax.tree.leaves(restored[1])]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    trained(Path(sys.argv[1]))
