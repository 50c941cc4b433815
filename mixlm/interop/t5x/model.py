"""A recipe's networks and objective as a model of T5X's trainer, which is not on PyPI."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import freeze, meta, unfreeze
from flax.linen import partitioning
from jaxtyping import Array, Float, Int

from mixlm.decoding.autoregressive import Sampler, context_example, decode_autoregressive
from mixlm.errors import UserError
from mixlm.example import Example
from mixlm.losses.terms import Term, weighted_sum
from mixlm.network import Net, bind
from mixlm.objectives.base import PairObjective, ReadsPrevious, batch_columns
from mixlm.parallel.mesh import boxed_parameters
from mixlm.recipe import Recipe
from mixlm.schedules import Constant

Batch = Mapping[str, Any]


class ObjectiveModel:
    """What T5X's `BaseTransformerModel` leaves to a model, answered by networks and an objective of mixlm.

    Rows of text are `decoder_target_tokens`, as T5X's `LMFeatureConverter` gives them; the objective corrupts them on
    the device, by the trainer's key of the step. Parameters are the network's tree, and with several networks a tree by
    their names. With microbatches T5X adds up the gradients of their means.

    Args:
      recipe: the recipe with networks, objectives and special ids.
      optimizer_def: T5X's optimizer.
      stage: which of the curriculum's objectives; T5X trains with one.
      network: the one that is scored and decoded.
      vocabulary: seqio's vocabulary of the rows, for T5X's own use.

    Raises UserError for an objective of pairs, and for one with a schedule, as T5X tells a loss no step.
    """

    def __init__(
        self, recipe: Recipe, optimizer_def: Any, stage: int = 0, network: str = "model", vocabulary: Any = None
    ) -> None:
        self.objective = recipe.curriculum.distinct[stage]
        self.networks = {name: recipe.networks[name] for name in self.objective.networks}
        self.network, self.tokens = network, recipe.tokens
        name = type(self.objective).__name__
        if isinstance(self.objective, PairObjective) and self.objective.pairs:
            raise UserError(f"{name} reads pairs, and T5X's trainer is given rows of text: take an objective of text.")
        for where, value in scheduled(self.objective, name):
            raise UserError(f"{where} is a {type(value).__name__}, and T5X tells a loss no step: give a constant.")
        super().__init__(
            module=self.networks[network],
            input_vocabulary=vocabulary,
            output_vocabulary=vocabulary,
            optimizer_def=optimizer_def,
        )  # type: ignore[call-arg]

    def get_initial_variables(self, rng: Any, input_shapes: Any, input_types: Any = None) -> Any:
        """Parameters of every network, and the logical axes of each as T5X's partitioner reads them."""
        del input_shapes, input_types
        params, axes = {}, {}
        for index, (name, module) in enumerate(sorted(self.networks.items())):
            key = jax.random.fold_in(as_key(rng), index)
            params[name] = meta.unbox(module.init(key, *module.inputs())["params"])
            axes[name] = logical_axes(boxed_parameters(module)[0])
        return freeze({"params": self._one(params), "params_axes": self._one(axes)})

    def loss_fn(self, params: Any, batch: Batch, dropout_rng: Any) -> tuple[Float[Array, ""], dict[str, Any]]:
        """The weighted sum of the objective's terms, and the mean of each; without a key there is no dropout."""
        from clu.metrics import Average

        terms = self._terms(params, batch, dropout_rng)
        loss = weighted_sum(terms)
        figures = {name: Average(total=term.total, count=term.count) for name, term in terms.items()}
        return loss, {"loss": Average(total=loss, count=jnp.ones(()))} | figures

    def _terms(self, params: Any, batch: Batch, rng: Any) -> dict[str, Term]:
        rows = batch["decoder_target_tokens"]
        key, count = jax.random.key(0) if rng is None else as_key(rng), rows.shape[0]
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count))
        columns, step = {"tokens": rows}, jnp.zeros((), jnp.int32)
        if isinstance(self.objective, ReadsPrevious) and self.objective.reads_previous:
            columns["previous"] = jnp.full(count, self.tokens.pad, rows.dtype)  # a row is its own text
        columns |= batch_columns(self.objective, keys, step)
        nets = bind(self.networks, self._by_name(params), None if rng is None else jax.random.fold_in(key, count))
        return self.objective(nets, columns, keys, step)

    def _compute_logits(self, params: Any, batch: Batch, dropout_rng: Any = None) -> Float[Array, "B T V"]:
        """Logits of the targets, each position reading what stands before it."""
        inputs = batch["decoder_input_tokens"]
        example = Example(
            decoder_input_tokens=inputs,
            decoder_target_tokens=batch["decoder_target_tokens"],
            decoder_loss_weights=jnp.ones(inputs.shape),
            decoder_mask_ar=jnp.ones_like(inputs),
            encoder_input_tokens=batch.get("encoder_input_tokens"),
        )
        key = None if dropout_rng is None else as_key(dropout_rng)
        net = Net(self.networks[self.network], self._by_name(params)[self.network], key)
        return net.logits(net.hidden(example))

    def score_batch(self, params: Any, batch: Batch, return_intermediates: bool = False) -> Float[Array, " B"]:
        """The log-probability of each row's targets, in nats."""
        if return_intermediates:
            raise UserError("The networks of mixlm sow no intermediates: score without return_intermediates.")
        targets = batch["decoder_target_tokens"]
        each = jax.nn.log_softmax(self._compute_logits(params, batch))
        chosen = jnp.take_along_axis(each, targets[..., None], axis=-1)[..., 0]
        return jnp.sum(chosen * batch.get("decoder_loss_weights", targets != self.tokens.pad), axis=-1)

    def predict_batch_with_aux(
        self, params: Any, batch: Batch, rng: Any = None
    ) -> tuple[Int[Array, "B T"], dict[str, Any]]:
        """The likeliest tokens, one by one, as many as a row has places: after `encoder_input_tokens`, or a prefix.

        The prefix is what `decoder_causal_attention` marks, as T5X's `PrefixLMFeatureConverter` gives it.
        """
        del rng
        module, inputs = self.networks[self.network], batch["decoder_input_tokens"]
        if "encoder_input_tokens" in batch:
            first = jnp.full((inputs.shape[0], 1), self.tokens.bos, jnp.int32)
            prompt = context_example(first, jnp.ones_like(first))
            prompt = replace(prompt, encoder_input_tokens=batch["encoder_input_tokens"])
        elif "decoder_causal_attention" in batch:
            prompt = context_example(*to_the_right(inputs, batch["decoder_causal_attention"]))
        else:
            raise UserError("A prediction follows encoder_input_tokens or decoder_causal_attention: convert to these.")
        keys = jax.random.split(jax.random.key(0), inputs.shape[0])  # nothing is drawn at temperature 0
        tree = self._by_name(params)[self.network]
        found = decode_autoregressive(module, tree, prompt, keys, Sampler(), inputs.shape[1], self.tokens)
        return found.tokens, {}

    def _one(self, trees: dict[str, Any]) -> Any:
        return next(iter(trees.values())) if len(trees) == 1 else trees

    def _by_name(self, params: Any) -> dict[str, Any]:
        tree = unfreeze(params)
        return {name: tree for name in self.networks} if len(self.networks) == 1 else tree


def model_class() -> Any:
    """The class of T5X's models for recipes, a `BaseTransformerModel`; UserError where T5X is not installed."""
    try:
        from t5x.models import BaseTransformerModel
    except ImportError as error:
        raise UserError(
            f"T5X is not installed ({error}): it is on GitHub alone, and docs/exchange.md says what it needs."
        ) from None
    import seqio

    class MixlmModel(ObjectiveModel, BaseTransformerModel):
        """A recipe of mixlm; see `ObjectiveModel`."""

        FEATURE_CONVERTER_CLS = seqio.LMFeatureConverter

    return MixlmModel


def as_key(rng: Any) -> Any:
    """A typed key of one, or of T5X's raw numbers."""
    return rng if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(rng)


def logical_axes(boxed: Any) -> Any:
    """The tree of T5X's `NAME_axes`, from parameters that are boxed with their logical axes."""
    if isinstance(boxed, Mapping):
        return {
            f"{name}_axes" if not isinstance(part, Mapping) else name: logical_axes(part)
            for name, part in boxed.items()
        }
    names = boxed.names if isinstance(boxed, meta.Partitioned) else (None,) * boxed.ndim
    return partitioning.AxisMetadata(names=tuple(names))


def to_the_right(tokens: Int[Array, "B T"], held: Int[Array, "B T"]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """Prefixes at the right of their rows, where new text follows without a gap, and their segments."""
    lengths, width = jnp.sum(held, axis=1, keepdims=True), tokens.shape[1]
    places = jnp.arange(width)[None, :] - (width - lengths)
    segments = (places >= 0).astype(jnp.int32)
    return jnp.take_along_axis(tokens, jnp.maximum(places, 0), axis=1) * segments, segments


def scheduled(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The schedules in a dataclass that are no constant, each with its place."""
    if isinstance(value, tuple):
        for part in value:
            yield from scheduled(part, where)
    elif is_dataclass(value) and not isinstance(value, type | Constant):
        if callable(value) and list(inspect.signature(value).parameters) == ["step"]:
            yield where, value
            return
        for each in fields(value):
            yield from scheduled(getattr(value, each.name), f"{type(value).__name__}.{each.name}")
