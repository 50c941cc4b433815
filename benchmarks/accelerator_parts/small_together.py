"""A case of `small`: K runs of dual, each with its seed and its ALPHA, trained as one executable."""

import tempfile
import time
from pathlib import Path

from cases import Device

from mixlm.gin_config.build import load


def main(device: Device) -> None:
    """Trains them once, and again without compiling: the second time is a sweep's."""
    from mixlm.training.together import train_together

    settings = device.settings
    count, steps = settings["runs"], 4 if settings["tiny"] else settings["steps"]
    device.wait()
    with tempfile.TemporaryDirectory() as folder:
        for attempt in ("first", "again"):
            recipes = [
                load("dual.gin", SEED=run, ALPHA=1 - run / (2 * count), TRAIN_STEPS=steps, EVAL_PERIOD=steps,
                     CHECKPOINT_PERIOD=steps, MODEL_DIR=str(Path(folder) / f"{attempt}-{run}"))
                for run in range(count)
            ]  # fmt: skip
            begun = time.monotonic()
            for error in train_together(recipes, lambda _: None):
                if error is not None:
                    raise error
            seconds = time.monotonic() - begun
            device.note(
                **{f"{attempt}_seconds": seconds, f"{attempt}_runs_a_minute": 60 * count / seconds},
                runs=count, steps=steps,
            )  # fmt: skip


if __name__ == "__main__":
    device = Device()
    try:
        main(device)
    except Exception as error:
        device.note(error=f"{type(error).__name__}: {error}"[:1500])
        raise
    device.done()
