"""Tokens of a text as a trained decoder predicts them: loss, entropy, and both by frequency."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mixlm.analysis.frequency_figure import BINS, frequency_figure
from mixlm.analysis.style import Png
from mixlm.api.functions import recipe_of
from mixlm.api.run import Run
from mixlm.api.settled import settled, text_batch
from mixlm.errors import UserError, nearest
from mixlm.reports.shading import ShadedToken, ShadedTokens
from mixlm.reports.table import Table

Given = Run | str | os.PathLike[str]
BATCH_ROWS = 16  # Ours: logits of so many rows are held at once
FIGURES = {"entropy": "entropy of the prediction, nats", "nats": "loss, nats", "occurrences": "occurrences"}


class TokenScores(Table):
    """A row for each token: text, nats (its loss), entropy (of its prediction), likeliest, occurrences in training."""

    def shaded(self, by: str = "entropy") -> ShadedTokens:
        """The text with each token shaded by a column: "entropy", "nats" or "occurrences"."""
        if by not in FIGURES:
            raise UserError(f"Tokens are shaded by {', '.join(FIGURES)}, not {by!r}.{nearest(by, FIGURES)}")
        row = tuple(ShadedToken(text, float(value)) for text, value in zip(self["text"], self[by]))
        return ShadedTokens((row,), FIGURES[by])


def token_scores(run: Given, text: str) -> TokenScores:
    """The loss of each token of a text and the entropy of its prediction, read causally from BOS.

    Args:
      run: a run of a decoder, or its folder.
      text: is cut to the length of the run's rows.

    Raises:
      UserError: for a network with an encoder, which reads no text causally, and for an empty text.

    Example: `token_scores("runs/mile", "The Congress shall meet in December.").shaded("entropy")`.
    """
    trained = run if isinstance(run, Run) else Run(run)
    recipe, data = settled(recipe_of(trained))
    tokens = text_batch(recipe, data.vocabulary, text)["tokens"]
    nats, entropy, best = _read(trained, recipe, tokens)
    pieces, counts = data.vocabulary.pieces(tokens[0].tolist()), data.token_counts()
    likeliest = data.vocabulary.pieces(best[0].tolist())
    return TokenScores(
        [
            {"text": piece.replace("\u2581", " "), "nats": float(cost), "entropy": float(spread)}
            | {"likeliest": guess.replace("\u2581", " "), "occurrences": int(counts[token])}
            for piece, cost, spread, guess, token in zip(pieces, nats[0], entropy[0], likeliest, tokens[0])
        ],
        ["text", "nats", "entropy", "likeliest", "occurrences"],
    )


def loss_by_frequency(runs: Mapping[str, Given], rows: int = 128, bins: int = BINS) -> Png:
    """The loss of rare and of frequent tokens of the validation text, for several runs of one vocabulary.

    Args:
      runs: runs or their folders by the name that the legend shows; the second panel is the difference to the first.
      rows: of the validation split, spread evenly.
      bins: of equal shares of that text, by how often a token stands in the training text.

    Raises:
      UserError: for runs whose tokens differ, and for a network with an encoder.

    Example: `loss_by_frequency({"cross-entropy": "runs/g0", "MiLe": "runs/g1"}).save("bands.png")`.
    """
    losses: dict[str, Float[np.ndarray, " N"]] = {}
    shared: tuple[Any, Any] | None = None
    for name, given in runs.items():
        run = given if isinstance(given, Run) else Run(given)
        recipe, data = settled(recipe_of(run))
        tokens = data.validation_rows(recipe.block_length, min(rows, data.validation_size(recipe.block_length)))
        if shared is not None and not np.array_equal(shared[0], tokens):
            raise UserError(f"The run {name!r} reads other validation rows than {next(iter(losses))!r}.")
        shared = shared or (tokens, data.token_counts())
        losses[name] = _read(run, recipe, tokens)[0].reshape(-1)
    if shared is None:
        raise UserError("There are no runs to compare: give them by name, {'mile': 'runs/mile'}.")
    return frequency_figure(losses, shared[1][shared[0].reshape(-1)], bins)


def _read(run: Run, recipe: Any, tokens: Int[np.ndarray, "B L"]) -> tuple[Any, Any, Any]:
    """Loss and entropy in nats, and the likeliest token, of each token given BOS and those before it."""
    from mixlm.network import EncoderDecoderNetwork

    name, module = "model", recipe.networks["model"]
    if isinstance(module, EncoderDecoderNetwork):
        raise UserError(
            f"{type(module).__name__} has an encoder, and tokens are read one after the other by a decoder."
        )
    params, parts = run.params[name], []
    for start in range(0, len(tokens), BATCH_ROWS):
        part = tokens[start : start + BATCH_ROWS]
        # All batches have one shape, so that one executable reads them.
        padded = np.pad(part, ((0, min(BATCH_ROWS, len(tokens)) - len(part)), (0, 0)))
        parts.append([each[: len(part)] for each in _predicted(module, params, padded, recipe.tokens.bos)])
    losses, entropies, best = (np.concatenate(each) for each in zip(*parts))
    return losses, entropies, best


def _predicted(module: Any, params: Any, tokens: Int[np.ndarray, "B L"], bos: int) -> Sequence[Any]:
    import jax

    return [np.asarray(each) for each in jax.device_get(_jitted()(module, params, tokens, bos))]


@cache
def _jitted() -> Any:
    """The prediction as one program for each network and shape."""
    import jax
    import jax.numpy as jnp

    from mixlm.evaluation.reading import Rows, read_causally
    from mixlm.losses.softmax import normalizer_chosen_entropy
    from mixlm.network import Net

    def predict(module: Any, params: Any, tokens: Any, bos: int) -> Any:
        net, count = Net(module, params), tokens.shape[0]
        whole, none = jnp.full(count, tokens.shape[1]), jnp.zeros(count, jnp.int32)
        logits = net.logits(read_causally(net, Rows(tokens, whole, none, none, none), bos))
        log_z, chosen, entropy = normalizer_chosen_entropy(logits, tokens)
        return log_z - chosen, entropy, jnp.argmax(logits, axis=-1)

    return jax.jit(predict, static_argnums=(0, 3))
