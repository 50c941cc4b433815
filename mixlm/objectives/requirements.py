"""Checks that a recipe gives its objectives what they read and train: names, rows, networks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mixlm.errors import UserError, nearest
from mixlm.network import FixedVocabulary
from mixlm.objectives.base import Objective, PacksPairs, PairObjective


def check_names(*groups: Sequence[Objective]) -> None:
    """Raises UserError where two distinct objectives of one group have the same name."""
    for names in ([objective.name for objective in group] for group in groups):
        for name in (name for name in names if names.count(name) > 1):
            raise UserError(f"Two different objectives are named {name!r}, so their figures could not be told apart.")


def check_rows(objectives: Sequence[Objective], pairs: Mapping[str, int] | None, lengths: Mapping[str, int]) -> None:
    """Raises UserError unless rows of pairs meet objectives that read pairs, and rows of text the others.

    `pairs` are the feature lengths of the data's pairs, None where its rows are text; `lengths` those of the recipe.
    """
    for objective in objectives:
        reads_pairs = isinstance(objective, PairObjective) and objective.pairs
        if pairs is not None and not reads_pairs:
            raise UserError(
                f"The objective {objective.name!r} reads text, and the data's rows are pairs of inputs and targets."
            )
        if pairs is None and reads_pairs:
            raise UserError(
                f"The objective {objective.name!r} reads pairs of inputs and targets, and the data's rows are "
                "text: bind `pairs` of the data to TASK_FEATURE_LENGTHS, as objectives/seq2seq.gin does."
            )
    if pairs is not None and dict(pairs) != dict(lengths):
        raise UserError(f"The data's pairs have lengths {dict(pairs)}, and TASK_FEATURE_LENGTHS {lengths}.")


def check_packing(objectives: Sequence[Objective], packed: bool) -> None:
    """Raises UserError unless packed rows meet objectives that read several pairs in a row, and others single pairs."""
    for objective in objectives:
        if packed and not isinstance(objective, PacksPairs):
            raise UserError(
                f"PACKED rows have several pairs, and the objective {objective.name!r} reads one a row, since it pools "
                "a hidden state or scores padding: leave PACKED out."
            )
        if isinstance(objective, PacksPairs) and objective.packed != packed:
            reads = "packed rows" if objective.packed else "one pair a row"
            raise UserError(
                f"The objective {objective.name!r} reads {reads}, and the data do not: bind `packed` of both to "
                "PACKED; a mixture of tasks is not packed."
            )


def check_networks(objectives: Sequence[Objective], networks: Mapping[str, Any], vocab_size: int) -> None:
    """Raises UserError where an objective trains a network that is not there, or one has fewer tokens than the text."""
    for objective in objectives:
        for name in objective.networks:
            if name not in networks:
                raise UserError(
                    f"The objective {objective.name!r} trains a network {name!r}, and the recipe's networks are "
                    f"{sorted(networks)}.{nearest(name, networks)}"
                )
    for name, module in networks.items():
        if isinstance(module, FixedVocabulary) and module.vocab_size < vocab_size:
            raise UserError(
                f"The network {name!r} has {module.vocab_size} tokens, and the vocabulary {vocab_size} (VOCAB_SIZE)."
            )


def block_length(objectives: Sequence[Objective], lengths: Mapping[str, int]) -> int:
    """Tokens of text in every row, the same for all objectives; UserError for a length that is missing, or not read."""
    noted = _NotedLengths(lengths)
    try:
        found = {objective.name: objective.block_length(noted) for objective in objectives}
    except KeyError as error:
        missing = str(error.args[0])
        raise UserError(
            f"TASK_FEATURE_LENGTHS has no {missing!r}, it has {sorted(lengths)}.{nearest(missing, lengths)}"
        ) from None
    if len(set(found.values())) > 1:
        raise UserError(f"The objectives need rows of different lengths of text: {found}.")
    for unread in (name for name in lengths if name not in noted.read):
        raise UserError(
            f"TASK_FEATURE_LENGTHS has {unread!r}, and the objectives read {', '.join(sorted(noted.read))} alone."
            f"{nearest(unread, noted.read)}"
        )
    return next(iter(found.values()))


class _NotedLengths(Mapping[str, int]):
    """Feature lengths that note which of them are read; going through them reads all."""

    def __init__(self, lengths: Mapping[str, int]) -> None:
        self._lengths = lengths
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> int:
        length = self._lengths[name]
        self.read.add(name)
        return length

    def __iter__(self) -> Iterator[str]:
        return iter(self._lengths)

    def __len__(self) -> int:
        return len(self._lengths)
