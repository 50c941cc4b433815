"""How fast steps of the papers' networks are on this device, next to PyTorch's and to a product of large matrices.

    python benchmarks/accelerator_parts/fast.py --seconds=210 --out=fast.json

Cases come in order of value, each in its own process: the device is one case's at a time, while the next ones import
and trace. A case has the median time of a step over blocks of steps, tokens a second, model FLOPs (networks forward and
backward, by `mixlm.perf`; PyTorch's cases count the same) over the chip's dense bfloat16 peak (MFU), and peak memory.
"""

from pathlib import Path

from cases import Case, Results, arguments, run_in_turns

SAVED = "dots_and_attention_saveable"


def tries(remat: str | None, *each: tuple[float, int]) -> list[dict[str, object]]:
    """Batches from large to small: the GB that a device must have for it, and its rows."""
    return [{"gigabytes": held, "BATCH_SIZE": rows, "REMAT": remat} for held, rows in each]


# By the bytes that the traced step keeps for its gradient and the state: 1.5 GB a row of dual, 0.75 of mile, 0.17 of T5
# with products and attention saved, 0.22 with SpacTor's generator; four times as much where all is saved.
DUAL = tries(SAVED, (120, 64), (65, 32), (40, 16), (0, 8))
DUAL_ALL = tries(None, (100, 16), (55, 8), (0, 4))
MILE = tries(SAVED, (120, 128), (65, 64), (40, 32), (0, 8))
T5 = tries(SAVED, (120, 512), (65, 256), (35, 128), (0, 32))
LTG = tries(SAVED, (65, 1024), (30, 512), (0, 128))
TINY = [{"BATCH_SIZE": 8, "TRAIN_STEPS": 2400}]  # as many rows as the tests have devices
SCANNED = ["SCAN_LAYERS=True"]  # as all scale files have it: layers are compiled once
# `gigabytes` are those of a row without checkpointing, so that PyTorch does not begin where it cannot end.
LLAMA = {
    "vocab": 51200,
    "width": 1024,
    "mlp": 3554,
    "layers": 24,
    "heads": 16,
    "theta": 160000.0,
    "length": 2048,
    "gigabytes": 3.5,
}
MILE_LLAMA = LLAMA | {"vocab": 32000, "mlp": 4096, "theta": 10000.0, "length": 1024, "gigabytes": 1.6}
T5_BASE = {
    "vocab": 32128,
    "width": 768,
    "mlp": 2048,
    "layers": 12,
    "heads": 12,
    "inputs": 512,
    "targets": 114,
    "gigabytes": 0.6,
}


def of_recipe(name: str, files: list[str], small: list[str], batches: list[dict], **more: object) -> Case:
    """A case of mixlm: gin files, those that stand for them with --tiny, batches to try."""
    settings = {"files": files, "small": small, "tries": batches, "tiny_tries": TINY, **more}
    return Case(name, "fast_mixlm.py", settings, seconds=110)


def of_torch(name: str, kind: str, sizes: dict[str, object], like: str, **more: object) -> Case:
    """A case of PyTorch, with the batch of mixlm's case `like`."""
    return Case(name, "fast_torch.py", {"kind": kind, "sizes": sizes, **more}, seconds=100, like=like)


CASES = [
    Case("ceiling", "fast_mixlm.py", {"kind": "ceiling"}, seconds=40),
    Case("torch ceiling", "fast_torch.py", {"kind": "ceiling"}, seconds=40),
    of_recipe("dual 470M", ["dual", "scale/dual"], ["dual"], DUAL),
    of_torch("torch dual 470M", "llama", LLAMA, "dual 470M"),
    of_recipe("t5 base", ["benchmarks/t5_base"], ["benchmarks/t5_base", "models/t5_tiny"], T5, bindings=SCANNED),
    of_torch("torch t5 base", "t5", T5_BASE, "t5 base"),
    of_recipe("mile 468M", ["mile", "scale/mile"], ["mile"], MILE),
    of_recipe("spactor stage 1", ["spactor", "scale/spactor_base"], ["spactor"], T5),
    of_recipe("ltg-bert base", ["antlm_ltg_bert", "scale/antlm_ltg_bert"], ["antlm_ltg_bert"], LTG, stage=1),
    of_recipe("spactor stage 2", ["spactor", "scale/spactor_base"], ["spactor"], T5, stage=1),
    of_torch("torch mile 468M", "llama", MILE_LLAMA, "mile 468M"),
    of_recipe("dual all saved", ["dual", "scale/dual"], ["dual"], DUAL_ALL),
    of_recipe("dual unrolled", ["dual", "scale/dual"], ["dual"], DUAL_ALL, bindings=["SCAN_LAYERS=False"]),
    of_torch("torch dual whole", "llama", LLAMA, "dual 470M", whole=True),
]


def main() -> None:
    """Runs what is missing."""
    given = arguments(__doc__)
    run_in_turns(CASES, Results(Path(given.out)), given)


if __name__ == "__main__":
    main()
