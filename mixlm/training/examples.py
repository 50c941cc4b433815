"""What an objective does to a text, for a person to read: the corrupted input, and what is to be said about it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixlm.decoding.autoregressive import fill_spans
from mixlm.decoding.text import spans
from mixlm.example import Example
from mixlm.objectives.base import Objective, RowObjective
from mixlm.reports.units import INDENT
from mixlm.tokens import TokenIds


def shown(objective: Objective, nets: Any, keys: Any, batch: Any, step: int) -> tuple[Example, Any] | None:
    """The examples of a batch, and the encoder's input before anything in it was replaced; None if there are none.

    An objective that needs networks to corrupt has a method `shown(nets, keys, batch, step)`; without networks (None)
    it shows the mask in the place of what they would have put there.
    """
    batch = {name: jnp.asarray(rows) for name, rows in batch.items()}
    if hasattr(objective, "shown"):
        return objective.shown(nets, keys, batch, step)
    if isinstance(objective, RowObjective):
        example = objective.corrupt(keys, batch, step)
        return example, example.encoder_input_tokens
    return None


def marked(vocabulary: Any, tokens: np.ndarray, before: np.ndarray | None) -> str:
    """The text of `tokens`, with `[old -> new]` wherever they differ from `before`."""
    if before is None or (tokens == before).all():
        return vocabulary.decode(tokens.tolist())
    parts, run = [], []
    for new, old in zip(tokens.tolist(), before.tolist()):
        if new == old:
            run.append(new)
            continue
        parts += [vocabulary.decode(run), f"[{vocabulary.decode([old])} -> {vocabulary.decode([new])}]"]
        run = []
    return " ".join(part for part in [*parts, vocabulary.decode(run)] if part)


def reading(vocabulary: Any, example: Example, before: Any, row: int) -> list[str]:
    """The lines that say what one row reads and what it must say."""
    lines = []
    if example.encoder_input_tokens is not None:
        # The inputs of a pair end where its targets begin, so that padding comes first.
        begins = int(np.argmax(np.asarray(example.encoder_segments[row]) > 0))
        inputs = np.asarray(example.encoder_input_tokens[row])[begins:]
        original = None if before is None else np.asarray(before[row])[begins:]
        lines.append("reads  " + marked(vocabulary, inputs, original))
    else:
        lines.append("reads  " + vocabulary.decode(np.asarray(example.decoder_input_tokens[row]).tolist()))
    scored = np.asarray(example.decoder_loss_weights[row]) > 0
    lines.append("says   " + vocabulary.decode(np.asarray(example.decoder_target_tokens[row])[scored].tolist()))
    return lines


def likeliest(net: Any, example: Example) -> Any:
    """The likeliest token at every position of a decoder, all read off one forward."""
    return jnp.argmax(net.logits(net.hidden(example)), axis=-1)


def guessed(vocabulary: Any, example: Example, guesses: Any, row: int) -> list[str]:
    """What one row reads and must say, and the model's likeliest token at each of those places."""
    scored = np.asarray(example.decoder_loss_weights[row]) > 0
    lines = [*reading(vocabulary, example, None, row), "model  " + vocabulary.decode(np.asarray(guesses)[row][scored])]
    return [INDENT + line for line in lines]


def filled(module: Any, params: Any, vocabulary: Any, example: Example, before: Any, ids: TokenIds) -> list[str]:
    """Lines for every row of the example: its input, and each span as the model fills it next to the true one."""
    true = np.asarray(example.decoder_target_tokens)
    said = np.asarray(
        jax.device_get(
            fill_spans(
                module,
                params,
                example.encoder_tokens,
                true.shape[1],
                bos=ids.bos,
                eos=ids.eos,
                segments=example.encoder_segments,
            )
        )
    )
    lines = []
    for row in range(true.shape[0]):
        lines.append(f"example {row + 1}")
        lines.append(INDENT + reading(vocabulary, example, before, row)[0])
        wanted, got = spans(true[row].tolist(), ids), spans(said[row].tolist(), ids)
        if not wanted:
            # No sentinels: the whole of what is said, whose padding follows its EOS.
            right, fill = (vocabulary.decode(tokens[tokens != ids.pad].tolist()) for tokens in (true[row], said[row]))
            lines.append(f"{INDENT}true: {right}  |  model: {fill or '(nothing)'}")
        for number, tokens in wanted.items():
            fill = vocabulary.decode(got.get(number, [])) or "(nothing)"
            lines.append(f"{INDENT}<extra_id_{number}>  true: {vocabulary.decode(tokens)}  |  model: {fill}")
    return lines
