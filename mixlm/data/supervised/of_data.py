"""Settings of a run that follow from its supervised data: lengths of rows, steps of an epoch, batches of validation."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np

from mixlm.data.dataset import Dataset, PreparedData
from mixlm.data.loader.pairs import rows_of_all
from mixlm.data.mixture import Mixture, Part
from mixlm.data.supervised.task import SupervisedTask
from mixlm.errors import UserError

MULTIPLE = 8  # Ours: lengths are multiples of it, as kernels like them.


def lengths(tasks: Sequence[SupervisedTask], cache_dir: str | None, longest: Mapping[str, int]) -> dict[str, int]:
    """The lengths of inputs and targets that hold every example of both splits, as multiples of MULTIPLE.

    Inputs that are longer than `longest` are cut at their end, as T5 does. Raises UserError for a target that is.
    """
    found = [_longest(prepared) for prepared in _prepared(tasks, cache_dir)]
    inputs, targets = (max(sizes) for sizes in zip(*found))
    for task, (_, size) in zip(tasks, found):
        if size > longest["targets"]:
            raise UserError(
                f"A target of {task.name!r} has {size} tokens, and rows may have {longest['targets']} of them: give "
                f"--gin.LONGEST_TARGETS={_rounded(size)}."
            )
    as_classes = all(task.as_classes for task in tasks)
    return {"inputs": min(_rounded(inputs), longest["inputs"]), "targets": 1 if as_classes else _rounded(targets)}


def epoch_steps(
    tasks: Sequence[SupervisedTask],
    cache_dir: str | None,
    batch_size: int,
    train_steps: int | None = None,
    packed_in: Mapping[str, int] | None = None,
    packed: bool = False,
) -> int:
    """The steps of one epoch of all tasks, at most those of the run; `packed` rows have the lengths `packed_in`."""
    splits = [prepared.store.split("train") for prepared in _prepared(tasks, cache_dir)]
    rows = sum(rows_of_all(split, packed_in) if packed and packed_in else split.num_documents for split in splits)
    return min(-(-rows // batch_size), train_steps or rows)


def validation_batches(
    tasks: Sequence[SupervisedTask], cache_dir: str | None, batch_size: int, most: int | None = None
) -> int:
    """The batches that hold the validation split, at most `most`."""
    examples = sum(prepared.store.split("validation").num_documents for prepared in _prepared(tasks, cache_dir))
    return min(-(-examples // batch_size), most or examples)


def classes(task: SupervisedTask) -> int:
    """The number of classes of a task."""
    return len(task.format.labels)


def mixed(
    tasks: Sequence[SupervisedTask], cache_dir: str | None, pairs: Mapping[str, int], limit: int = 2**19
) -> Mixture:
    """The tasks mixed by their numbers of examples, each at most `limit` (T5, section 3.5.2)."""
    examples = [prepared.store.split("train").num_documents for prepared in _prepared(tasks, cache_dir)]
    rates = tuple(float(min(count, limit)) for count in examples)
    return Mixture(tuple(map(Part, tasks)), rates, cache_dir=cache_dir, pairs=pairs)


def of_suite(names: Sequence[str], task: Callable[..., SupervisedTask]) -> tuple[SupervisedTask, ...]:
    """A task for each name; `task` makes one."""
    return tuple(task(task=name) for name in names)


def _prepared(tasks: Sequence[SupervisedTask], cache_dir: str | None) -> list[PreparedData]:
    """The tasks with their tokens, which are made once."""
    return [Dataset(task, cache_dir=cache_dir).stored(_say) for task in tasks]


@cache
def _say(line: str) -> None:
    """Prints a line once, however often the settings are asked for."""
    print(line, flush=True)


def _longest(prepared: PreparedData) -> tuple[int, int]:
    """The most tokens of inputs and of targets."""
    splits = [prepared.store.split(name) for name in ("train", "validation")]
    found = [(split.targets - split.offsets[:-1], split.offsets[1:] - split.targets) for split in splits]
    inputs, targets = (np.concatenate(parts) for parts in zip(*found))
    return int(inputs.max()), int(targets.max())


def _rounded(size: int) -> int:
    return -(-size // MULTIPLE) * MULTIPLE
