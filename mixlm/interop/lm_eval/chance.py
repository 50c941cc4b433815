"""Accuracies normalised by chance, as metrics of the harness's tasks; the harness imports this module."""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask

ACCURACIES = {"acc": "score", "acc_norm": "score_norm"}  # the harness's metrics, and ours of the same choice


def normalised(questions: Sequence[tuple[float, float]]) -> float:
    """`100 (accuracy - chance) / (1 - chance)` of (1 where it is right, the share of answers that are) a question."""
    right, chance = (sum(column) / len(questions) for column in zip(*questions))
    return 100 * (right - chance) / (1 - chance)


class Normalised(ConfigurableTask):
    """A multiple-choice task that also has `score` and `score_norm`, its accuracies normalised by chance.

    Chance is one over the number of a question's answers, so questions of three or five are taken as such.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__(config={name: value for name, value in (config or {}).items() if name != "class"})
        for accuracy in ACCURACIES.keys() & set(self._metric_fn_list):
            self._aggregation_list[ACCURACIES[accuracy]] = normalised
            self._higher_is_better[ACCURACIES[accuracy]] = True

    def process_results(self, doc: Any, results: Any) -> dict[str, Any]:
        found = super().process_results(doc, results)
        chance = 1 / len(self.doc_to_choice(doc))
        return found | {ours: (found[accuracy], chance) for accuracy, ours in ACCURACIES.items() if accuracy in found}


def blimp(**metadata: Any) -> Any:
    """All paradigms of BLiMP as one dataset, of the hub or its copy on the disk."""
    import datasets

    path = "nyu-mll/blimp"
    parts = [datasets.load_dataset(path, name, split="train") for name in datasets.get_dataset_config_names(path)]
    return datasets.DatasetDict(train=datasets.concatenate_datasets(parts))
