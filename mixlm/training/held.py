"""The least memory of a run on each device, from its shapes, before anything is allocated."""

from typing import Any

from mixlm.parallel.logical_axes import Layout
from mixlm.parallel.mesh import bytes_per_device
from mixlm.perf.memory import Need, check_fits, device_bytes, host_bytes
from mixlm.recipe import Recipe

_EXAMPLE = 12  # bytes of a position in an example: its input and target, int32, and its float32 weight
# Ours: a chunk of logits has at least so many positions, as `losses.chunked` makes them off a CPU.
LEAST_POSITIONS = 480


def memory_of(layout: Layout) -> tuple[int | None, str]:
    """(The memory of each device, what to call it)."""
    devices = list(layout.mesh.devices.flat)
    if devices[0].platform == "cpu":
        return device_bytes(devices), "each device" if len(devices) > 1 else "this machine"
    return device_bytes(devices), f"each {devices[0].device_kind}"


def least_held(recipe: Recipe, layout: Layout, shapes: Any) -> list[Need]:
    """The least memory of a device: the state with its gradients, a microbatch, logits; rows of validation.

    Layers' activations are not counted, which only the compiler knows (see `PreparedRun.step_held`).
    """
    parts, length = layout.parts("batch") * layout.parts("length"), recipe.block_length
    rows, vocabulary = recipe.batch_size * length, recipe.tokens.vocab_size
    positions = -(-rows // (recipe.microbatches * parts))
    logits = min(positions, LEAST_POSITIONS) * vocabulary // layout.parts("vocab")
    needs = [
        Need(
            "parameters, gradients and the optimizer's state",
            bytes_per_device(shapes) + bytes_per_device(shapes.params),
            "take a smaller network (EMB_DIM, VOCAB_SIZE), or shard it over more devices (FSDP_PARTITIONS)",
        ),
        Need(
            "the rows of a step",
            4 * -(-rows // parts) + _EXAMPLE * positions,
            "lower BATCH_SIZE or TASK_FEATURE_LENGTHS, or raise MICROBATCHES",
        ),
        Need("logits", 4 * logits, "lower VOCAB_SIZE"),
    ]
    if layout.mesh.devices.flat[0].platform == "cpu":
        needs.append(_validation_rows(recipe))
    else:
        check_fits("This run", [_validation_rows(recipe)], host_bytes(), "this machine")
    return needs


def _validation_rows(recipe: Recipe) -> Need:
    size = 4 * recipe.eval_batches * recipe.batch_size * recipe.block_length
    return Need("the rows of validation", size, "lower EVAL_BATCHES, which counts batches of BATCH_SIZE rows")
