"""A Mixture of seqio's registry as it is: its Tasks, mixed by the rates that its module registers."""

from collections.abc import Callable, Mapping
from typing import Any

from mixlm.data.mixture import Mixture, Part, one_each
from mixlm.data.seqio_registry import definition_of, mixture_parts
from mixlm.data.sources.base import digest
from mixlm.data.store.cache import cache_folder
from mixlm.data.store.fingerprint_cache import caching_in, load_record, save_record


def of_registry(
    name: str,
    module: str,
    task: Callable[..., Any],
    unique_tokens: int | tuple[int | None, ...] | None = None,
    epochs: int | tuple[int, ...] | None = None,
    cache_dir: str | None = None,
    pairs: Mapping[str, int] | None = None,
) -> Mixture:
    """The Mixture `name` that importing `module` registers, its rates those of seqio's `Mixture.get_rate`.

    `task` makes a SeqioTask of a name and a module. One number of unique tokens or epochs holds for every Task; with
    epochs they say how the Tasks are mixed, in place of the rates. Rates that are functions are asked again when the
    module changes, or what the Tasks' fingerprints cover. `pairs` are the Mixture's. Raises UserError for a Mixture
    that is not there, and NotHere where none was named.
    """
    with caching_in(cache_folder(cache_dir) / "fingerprints"):
        rates = _rates(name, module, task)
    tasks = ", ".join(rates)
    budgets = one_each("UNIQUE_TOKENS", unique_tokens, len(rates), tasks)
    counts = one_each("EPOCHS", epochs, len(rates), tasks)
    return Mixture(
        tuple(
            Part(task(name=each, module=module), budget, count) for each, budget, count in zip(rates, budgets, counts)
        ),
        tuple(rates.values()) if epochs is None else None,
        cache_dir=cache_dir,
        pairs=pairs,
    )


def _rates(name: str, module: str, task: Callable[..., Any]) -> dict[str, float]:
    """The rate of each Task; cached with the Tasks' fingerprints, so that a second start imports no seqio."""

    def fingerprints(names: list[str]) -> list[str]:
        return [task(name=each, module=module).fingerprint() for each in names]

    key = digest("seqio mixture", name, definition_of("Mixture", name, module))
    record = load_record(key)
    if isinstance(record, dict) and fingerprints(list(record["rates"])) == record["tasks"]:
        return record["rates"]
    rates = dict(mixture_parts(name, module))
    save_record(key, {"rates": rates, "tasks": fingerprints(list(rates))})
    return rates
