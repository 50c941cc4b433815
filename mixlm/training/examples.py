"""Examples of an objective for a reader: how it corrupts rows of text, and what trained networks make of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from mixlm.decoding.autoregressive import fill_spans
from mixlm.decoding.text import spans
from mixlm.example import Example
from mixlm.network import CachedNetwork, EncoderDecoderNetwork, bind
from mixlm.objectives.base import NamesTargets, Nets, Objective, RowObjective, ShowsExamples
from mixlm.recipe import Recipe
from mixlm.reports.examples import Examples, ExampleText, Fill, Kind, Piece
from mixlm.rng import row_keys
from mixlm.schedules import Step
from mixlm.tokens import TokenIds
from mixlm.training import traced_hparams
from mixlm.training.targets import targets_by_term

SPACE = "\u2581"  # SentencePiece's mark of a space before a piece


def corrupted(
    objective: Objective, nets: Nets | None, keys: Any, batch: Mapping[str, Any], step: Step
) -> tuple[Example, Any] | None:
    """The examples of a batch and the encoder's inputs before any was replaced; None for an objective that has none."""
    batch = {name: jnp.asarray(rows) for name, rows in batch.items()}
    if isinstance(objective, ShowsExamples):
        return objective.shown(nets, keys, batch, step)
    if isinstance(objective, RowObjective):
        example = objective.corrupt(keys, batch, step)
        return example, example.encoder_input_tokens
    return None


def untrained(objective: Objective, keys: Any, batch: Mapping[str, Any], step: int) -> tuple[Example, Any] | None:
    """`corrupted` without networks, as one program: dozens of small ones take longer to compile."""
    found: tuple[Example, Any] | None = jax.jit(partial(corrupted, objective, None, step=step))(keys, batch=dict(batch))
    return found


def distinct(batch: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """The first rows of a batch, at most `count`, of which no two hold the same tokens."""
    places = np.sort(np.unique(batch["tokens"], axis=0, return_index=True)[1])[:count]
    return {name: column[places] for name, column in batch.items()}


def untrained_examples(
    recipe: Recipe, objective: Objective, vocabulary: Any, batch: Mapping[str, np.ndarray]
) -> list[ExampleText]:
    """The examples of rows of text before any network has a part in them; [] for an objective that shows none."""
    rows = batch["tokens"]
    keys = row_keys(recipe.seed, 0, len(rows))
    found = untrained(objective, keys, batch, recipe.steps - 1)
    if found is None:
        return []
    parts = row_parts(objective, keys, batch, recipe.steps - 1)
    return _named(_readings(objective.name, vocabulary, found, rows, recipe.tokens), parts)


def trained_examples(
    recipe: Recipe, vocabulary: Any, batch: Mapping[str, np.ndarray], params: Mapping[str, Any]
) -> Examples:
    """The examples of rows of text under each objective, with the networks' predictions beside the targets.

    The stages of an encoder-decoder after its first look the same to a reader and are left out.
    """
    examples: list[ExampleText] = []
    for objective in recipe.objectives:
        if examples and isinstance(recipe.networks[objective.networks[0]], EncoderDecoderNetwork):
            break
        examples += _predicted(recipe, objective, vocabulary, batch, params)
    return Examples(examples)


def _predicted(
    recipe: Recipe, objective: Any, vocabulary: Any, batch: Mapping[str, np.ndarray], params: Mapping[str, Any]
) -> list[ExampleText]:
    rows = batch["tokens"]
    modules, ids, network = dict(recipe.modules), recipe.tokens, objective.networks[0]
    params = jax.device_get({name: params[name] for name in objective.networks})
    static, numbers = traced_hparams.hoist(objective)
    keys, scalars = row_keys(recipe.seed, 0, len(rows)), tuple(map(np.float32, numbers))
    found = _corrupted(static, recipe.modules, params, keys, dict(batch), scalars, np.int32(recipe.steps - 1))
    if found is None:
        return []
    readings, example = _readings(objective.name, vocabulary, found, rows, ids), found[0]
    readings = _named(readings, row_parts(objective, keys, batch, recipe.steps - 1))
    if example.encoder_input_tokens is not None and isinstance(modules[network], CachedNetwork):
        fills = _fills(modules[network], params[network], vocabulary, example, ids)
        return [_with(reading, fills=fill) for reading, fill in zip(readings, fills)]

    guesses = np.asarray(_likeliest(recipe.modules, network, params[network], example))
    targets, scored = np.asarray(example.decoder_target_tokens), _scored(example)
    return [
        _with(
            reading, model=tuple(_pieces(vocabulary, guess[where], _verdicts(guess, target, where), ids, where=where))
        )
        for reading, guess, target, where in zip(readings, guesses, targets, scored)
    ]


# Networks and objectives are static, and the objective's numbers arguments: the cells of a sweep compile this once.
@partial(jax.jit, static_argnums=(0, 1))
def _corrupted(static, modules, params, keys, batch, numbers, step):
    return corrupted(traced_hparams.bind(static, numbers), bind(dict(modules), params), keys, batch, step)


@partial(jax.jit, static_argnums=(0, 1))
def _likeliest(modules, network, params, example):
    net = bind(dict(modules), {network: params})[network]
    return jnp.argmax(net.logits(net.hidden(example)), axis=-1)


def _with(example: ExampleText, model: tuple[Piece, ...] = (), fills: tuple[Fill, ...] = ()) -> ExampleText:
    return replace(example, model=model, fills=fills)


def row_parts(objective: Objective, keys: Any, batch: Mapping[str, Any], step: int) -> list[str]:
    """Each row's objective in a mixture by rows: the term that alone scores something in it; "" elsewhere."""
    if not isinstance(objective, NamesTargets):
        return []  # one term
    found = targets_by_term(objective, keys, batch, step)
    scored = np.array([np.asarray(scored).any(axis=1) for _, scored in found.values()]).reshape(len(found), -1)
    names = list(found)
    alone = len(names) > 1
    return [names[int(row.argmax())] if alone and row.sum() == 1 else "" for row in scored.T]


def _named(readings: Sequence[ExampleText], parts: Sequence[str]) -> list[ExampleText]:
    return [replace(reading, part=part) for reading, part in zip(readings, parts or [""] * len(readings))]


def _scored(example: Example) -> Bool[np.ndarray, "B T"]:
    return np.asarray(example.decoder_loss_weights) > 0


def _verdicts(guess: np.ndarray, target: np.ndarray, where: np.ndarray) -> list[Kind]:
    return ["right" if same else "wrong" for same in guess[where] == target[where]]


def _readings(
    name: str, vocabulary: Any, found: tuple[Example, Any], rows: Int[np.ndarray, "B L"], ids: TokenIds
) -> list[ExampleText]:
    """Each row's inputs and scored targets."""
    example, originals = found
    scored, targets = _scored(example), np.asarray(example.decoder_target_tokens)
    readings = []
    for row in range(len(rows)):
        if example.encoder_input_tokens is None:
            tokens = np.asarray(example.decoder_input_tokens[row])
            before = _uncorrupted(tokens, rows[row], ids)
        else:
            # The inputs of a pair end where its targets begin, so that padding comes first.
            begins = int(np.argmax(np.asarray(example.encoder_segments[row]) > 0))
            tokens = np.asarray(example.encoder_input_tokens[row])[begins:]
            before = tokens if originals is None else np.asarray(originals[row])[begins:]
        reads = tuple(_pieces(vocabulary, tokens, _kinds(tokens, before, ids), ids, before))
        places = scored[row]
        kinds: list[Kind] = ["scored"] * int(places.sum())
        says = tuple(_pieces(vocabulary, targets[row][places], kinds, ids, where=places))
        readings.append(ExampleText(name, row + 1, reads, says))
    return readings


def _uncorrupted(tokens: Int[np.ndarray, " T"], row: Int[np.ndarray, " L"], ids: TokenIds) -> np.ndarray:
    """The original token at each decoder input: the row itself, or the row shifted by one; a mask stands for itself.

    A decoder that reads neither (one that continues a prefix elsewhere) is taken to read what it shows.
    """
    candidates = [row, np.concatenate([tokens[:1], row[:-1]])] if len(row) else []
    candidates = [np.where(tokens == ids.mask, ids.mask, each) for each in candidates if len(each) == len(tokens)]
    agreeing = [int(((each == tokens) & (tokens != ids.mask)).sum()) for each in candidates]
    # Ours: an alignment by which less than a fifth of the row was kept is none.
    if not candidates or max(agreeing) < 0.2 * (tokens != ids.mask).sum():
        return tokens
    return candidates[int(np.argmax(agreeing))]


def _kinds(tokens: np.ndarray, before: np.ndarray, ids: TokenIds) -> list[Kind]:
    def kind(token: int, old: int) -> Kind:
        if token == ids.mask:
            return "masked"
        if token != old:
            return "replaced"
        return "sentinel" if 0 <= ids.first_sentinel - token < ids.sentinels else "text"

    return [kind(token, old) for token, old in zip(tokens.tolist(), before.tolist())]


def _pieces(
    vocabulary: Any,
    tokens: np.ndarray,
    kinds: Sequence[Kind],
    ids: TokenIds,
    before: np.ndarray | None = None,
    where: Bool[np.ndarray, " T"] | None = None,
) -> Iterator[Piece]:
    """Tokens as text, one piece for as many as belong together; their texts joined are the text of them all.

    `before` is what stood in their place; `where` are their positions in a row, of which neighbours belong together.
    """
    old = tokens if before is None else before
    positions = np.arange(len(tokens)) if where is None else np.flatnonzero(where)

    def group(index: int) -> tuple[Kind, int]:
        # Each corrupted token stands alone; text and scored targets run on as long as their positions do.
        alone = kinds[index] in ("replaced", "masked", "sentinel")
        return kinds[index], index if alone else int(index - positions[index]) - len(tokens)

    for (kind, _), indices in groupby(range(len(tokens)), group):
        places = list(indices)
        run = tokens[places].tolist()
        changed = old[places[0]] != run[0] and before is not None
        yield Piece(spaced(vocabulary, run, ids), kind, vocabulary.decode([int(old[places[0]])]) if changed else "")


def spaced(vocabulary: Any, run: Sequence[int], ids: TokenIds) -> str:
    """The text of tokens, with the space before it where they begin a word or are special."""
    special = run[0] in (ids.mask, ids.bos, ids.eos, ids.pad) or 0 <= ids.first_sentinel - run[0] < ids.sentinels
    opens = special or vocabulary.pieces(run[:1])[0].startswith(SPACE)
    return (" " if opens else "") + vocabulary.decode(run)


def _fills(module: Any, params: Any, vocabulary: Any, example: Example, ids: TokenIds) -> list[tuple[Fill, ...]]:
    """Each row's spans as the network fills them, greedily, beside the true ones."""
    true = np.asarray(example.decoder_target_tokens)
    segments = example.encoder_segments
    filled = fill_spans(
        module, params, example.encoder_tokens, true.shape[1], bos=ids.bos, eos=ids.eos, segments=segments
    )
    found = []
    for wanted, said in zip(true, np.asarray(jax.device_get(filled))):
        spans_wanted, spans_said = spans(wanted.tolist(), ids), spans(said.tolist(), ids)
        # Without sentinels the whole of what is said, whose padding follows its EOS.
        whole = [Fill("", *(vocabulary.decode(tokens[tokens != ids.pad].tolist()) for tokens in (wanted, said)))]
        fills = [
            Fill(f"<extra_id_{number}>", vocabulary.decode(tokens), vocabulary.decode(spans_said.get(number, [])))
            for number, tokens in spans_wanted.items()
        ]
        found.append(tuple(fills or whole))
    return found
