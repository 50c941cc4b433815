"""The parts of LTG-BERT and GPT-BERT in NumPy and float64, position by position, from weights under torch's names."""

import math

import numpy as np


def slow_norm(x, epsilon, scale=1.0, bias=0.0):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias


def slow_gelu(a):
    return 0.5 * a * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))


def exact_gelu(a):
    return 0.5 * a * (1 + np.vectorize(math.erf)(a / math.sqrt(2)))


def slow_row(distance, buckets, far):
    """The relative row of query - key in whole numbers: row r beyond the middle m ends at m * ((far-1)/m)^(r/(m-1))."""
    middle, size = buckets // 2, min(abs(distance), far - 1)
    if size > middle:
        ranks = [
            r for r in range(middle) if size ** (middle - 1) * middle**r <= middle ** (middle - 1) * (far - 1) ** r
        ]
        size = middle + min(ranks)
    return buckets - 1 + int(math.copysign(size, distance))


def slow_halves(x, weight, name):
    """Both outputs of a biased linear map that torch keeps as one."""
    return np.split(x @ weight(f"{name}.weight").T + weight(f"{name}.bias"), 2, axis=-1)


def slow_mixed(q, k, v, query_rows, key_rows, positions, sees, heads, buckets, far):
    """The values [T, J] as each head mixes them: content to content, content to position, position to content."""
    q, k, v, query_rows, key_rows = (x.reshape(len(x), heads, -1) for x in (q, k, v, query_rows, key_rows))
    mixed = np.zeros_like(v)
    for head in range(heads):
        for t in range(len(q)):
            seen = [s for s in range(len(q)) if sees[t, s]]
            rows = [slow_row(positions[t] - positions[s], buckets, far) for s in seen]
            scores = [
                q[t, head] @ k[s, head] + q[t, head] @ key_rows[r, head] + query_rows[r, head] @ k[s, head]
                for s, r in zip(seen, rows)
            ]
            scores = np.exp(np.array(scores) / np.sqrt(3 * q.shape[-1]))
            mixed[t, head] = sum(w * v[s, head] for w, s in zip(scores / scores.sum(), seen))
    return mixed.reshape(len(q), -1)


def slow_embeddings(weights, tokens, epsilon):
    """The tokens' embeddings, and those of the relative rows."""
    norm = (weights[f"embedding.relative_layer_norm.{kind}"] for kind in ("weight", "bias"))
    relative = slow_norm(weights["embedding.relative_embedding"], epsilon, *norm)
    return slow_norm(weights["embedding.word_embedding.weight"][tokens], epsilon), relative


def slow_mlp(weights, name, x, epsilon):
    linear, gate = np.split(slow_norm(x, epsilon) @ weights[f"{name}.mlp.1.weight"].T, 2, axis=-1)
    return slow_norm(linear * slow_gelu(gate), epsilon) @ weights[f"{name}.mlp.4.weight"].T


def slow_head(weights, x, epsilon):
    """The hidden states before the vocabulary, and the logits."""
    head = {name.removeprefix("classifier.nonlinearity."): value for name, value in weights.items()}
    hidden = slow_norm(exact_gelu(slow_norm(x, epsilon) @ head["1.weight"].T + head["1.bias"]), epsilon)
    return hidden, hidden @ head["5.weight"].T + head["5.bias"]


# GPT-BERT's own.


def gpt_bert_weights(vocab, width, mlp, layers, buckets, seed=0):
    """Random weights in the shapes and under the names of ltgoslo/gpt-bert's state dict."""
    rng = np.random.default_rng(seed)

    def drawn(*shape, spread=None):
        spread = shape[-1] ** -0.5 if spread is None else spread
        return rng.normal(size=shape, scale=spread).astype(np.float32)

    def linear(name, out):
        return {f"{name}.weight": drawn(out, width), f"{name}.bias": drawn(out, spread=0.3)}

    found = {
        "embedding.word_embedding.weight": drawn(vocab, width, spread=1.0),
        "embedding.relative_embedding": drawn(2 * buckets - 1, width, spread=1.0),
        "embedding.relative_layer_norm.weight": 1 + drawn(width, spread=0.3),
        "embedding.relative_layer_norm.bias": drawn(width, spread=0.3),
        "classifier.nonlinearity.5.bias": drawn(vocab, spread=0.3),
        **linear("classifier.nonlinearity.1", width),
    }
    for index in range(layers):
        attention = f"transformer.attention_layers.{index}"
        found |= linear(f"{attention}.in_proj_qk", 2 * width) | linear(f"{attention}.in_proj_vg", 2 * width)
        found |= linear(f"{attention}.out_proj", width) | {f"{attention}.position_indices": np.zeros((9, 9), np.int64)}
        found[f"transformer.mlp_layers.{index}.mlp.1.weight"] = drawn(2 * mlp, width)
        found[f"transformer.mlp_layers.{index}.mlp.4.weight"] = drawn(width, mlp)
    for index in range(2 * layers):
        found[f"transformer.dwa_modules.alphas.{index}"] = drawn(index + 2, spread=0.5)
    return found | {"classifier.nonlinearity.5.weight": found["embedding.word_embedding.weight"]}


def slow_gpt_bert(weights, tokens, positions, sees, heads, buckets, far, epsilon=1e-5):
    """The hidden states before the vocabulary and the logits of one row; `sees[t, s]` says whether t sees s."""
    weights = {name: np.float64(value) for name, value in weights.items()}
    x, relative = slow_embeddings(weights, tokens, epsilon)
    outputs, layers = [x], sum(name.endswith("in_proj_vg.weight") for name in weights)

    def averaged(output):
        outputs.append(output)
        return np.tensordot(weights[f"transformer.dwa_modules.alphas.{len(outputs) - 2}"], np.stack(outputs), axes=1)

    for index in range(layers):

        def weight(name, start=f"transformer.attention_layers.{index}"):
            return weights[f"{start}.{name}"]

        y = slow_norm(x, epsilon)
        value, gate = slow_halves(y, weight, "in_proj_vg")
        rows = slow_halves(relative, weight, "in_proj_qk")
        mixed = slow_mixed(
            *slow_halves(y, weight, "in_proj_qk"), value, *rows, positions, sees, heads, buckets, far
        ) * exact_gelu(gate)
        out = slow_norm(mixed, epsilon) @ weight("out_proj.weight").T + weight("out_proj.bias")
        x = averaged(x + out)
        x = averaged(x + slow_mlp(weights, f"transformer.mlp_layers.{index}", x, epsilon))
    return slow_head(weights, x, epsilon)
