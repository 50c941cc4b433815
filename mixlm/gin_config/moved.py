"""New places of the modules of 0.4.3 that moved in 0.5.0, for gin files that name them."""

import importlib
from contextlib import suppress
from types import ModuleType

# Old module -> modules that hold its classes and functions now, without `mixlm.`; some old names are in use again.
MOVED = {
    "accounting": "perf.accounting",
    "address": "paths",
    "axes": "parallel.logical_axes",
    "blockwise": "losses.chunked",
    "checkpoint": "checkpoints.saving",
    "compiled": "training.executables",
    "contents": "checkpoints.compatibility",
    "corruption": "objectives.corruption rng",
    "curriculum": "objectives.curriculum",
    "curves": "reports.curves",
    "data.corpora": "data.sources.jsonl data.sources.tfds",
    "data.held_out": "data.sources.holdout",
    "data.kinds": "data.sources.files",
    "data.mixed": "data.loader.interleave",
    "data.mixture": "data.dataset data.loader.batches data.store.cache",
    "data.modules": "data.user_module",
    "data.pairs": "data.loader.pairs",
    "data.parts": "data.mixture",
    "data.rates": "data.loader.rates",
    "data.repeat": "data.loader.epochs",
    "data.sources": "data.sources.sotu data.sources.text data.sources.base",
    "data.store": "data.store.token_store",
    "data.stream": "data.loader.streaming",
    "data.texts": "data.sources.auto",
    "data.tfrecord": "data.sources.tfrecord",
    "data.vocabulary": "data.vocabulary data.sentencepiece_training",
    "decoding.continuations": "decoding.run decoding.text",
    "decoding.decoders": "decoding.strategies",
    "decoding.denoise": "decoding.diffusion",
    "evaluate": "training.validation",
    "flops": "perf.flops",
    "folder": "checkpoints.run_dir",
    "interop.t5x": "checkpoints.from_t5x",
    "interop.torch": "checkpoints.from_torch",
    "losses": "losses losses.score losses.terms losses.token_losses",
    "metrics": "reports.metrics",
    "models.attend": "models.attention.dot_product",
    "models.attention": "models.attention.dispatch",
    "models.cache": "models.kv_cache",
    "models.decoder": "models.t5_decoder",
    "models.layout": "params",
    "models.reach": "models.attention.masks",
    "models.relative": "models.relative_position",
    "models.stack": "models.layer_stack",
    "muon": "optim.muon",
    "objectives.base": "objectives.base rng",
    "objectives.mix": "objectives.mixing",
    "optim": "optim optim.base optim.optimizer optim.adafactor optim.adamw optim.lamb optim.muon",
    "origin": "checkpoints.warm_start",
    "partitioning": "parallel.mesh",
    "per_layer": "optim.per_layer",
    "plan": "training.prepare training.summary reports.units",
    "processes": "parallel.processes",
    "restored": "checkpoints.load",
    "samples": "training.examples decoding.text",
    "scoring.likelihood": "evaluation.likelihood",
    "scoring.minimal_pairs": "evaluation.minimal_pairs",
    "scoring.modes": "evaluation.modes",
    "scoring.run": "evaluation.run",
    "scoring.spans": "evaluation.span_likelihood",
    "scoring.text": "evaluation.perplexity",
    "shards": "losses.per_device",
    "softmax": "losses.softmax",
    "step": "training.step network rng",
    "traced": "training.traced_hparams",
    "train": "training.run",
}


def new_modules(module: str) -> list[str]:
    """Returns the modules that `module` was split into or renamed to; none where it did not move."""
    return [f"mixlm.{new}" for new in MOVED.get(module.removeprefix("mixlm."), "").split()]


def moved_module(module: str) -> str:
    """Returns the sentence that names the new place of `module`, or ""."""
    new = new_modules(module)
    return f" Since mixlm 0.5.0 it is {' and '.join(new)}." if new else ""


def moved_name(module: str, name: str) -> str:
    """Returns the sentence that names the new place of the class or function `name` of `module`, or ""."""
    places = [new for new in new_modules(module) if hasattr(importlib.import_module(new), name)]
    return f" Since mixlm 0.5.0 it is {places[0]}.{name}." if places else ""


def old_module(module: str) -> ModuleType | None:
    """Returns a module with the names that `module` had in 0.4.3, or None where it did not move.

    Names of today's module of the same name come first.
    """
    new = new_modules(module)
    if not new:
        return None
    made = ModuleType(module)
    # Later updates win: first of all today's module of that name.
    for place in (*reversed(new), module):
        with suppress(ModuleNotFoundError):
            vars(made).update(vars(importlib.import_module(place)))
    return made
