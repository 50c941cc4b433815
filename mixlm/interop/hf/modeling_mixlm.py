"""mixlm's decoders in PyTorch, for transformers' `trust_remote_code`: exported beside the weights, and whole in itself.

`attention` says which positions a token reads: "causal", "bidirectional", or "prefix", where the first `prefix_lengths`
tokens of each row are read in both directions. Position t of a causal row predicts token t + 1; which token a masked
row's position predicts is `config.shifted`: True the one after it, as "mntp" scoring has it, False its own ("mlm").
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, MaskedLMOutput

ATTENTIONS = ("causal", "bidirectional", "prefix")
MASKED = -1e10  # added to the score of a key that a query may not read
ACTIVATIONS = {
    "relu": F.relu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}


class MixlmConfig(PretrainedConfig):
    """The fields of a network of mixlm, under their names there; `network` is its class."""

    model_type = "mixlm"
    attribute_map = {  # noqa: RUF012 (as transformers has it)
        "hidden_size": "emb_dim",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "intermediate_size": "mlp_dim",
    }

    def __init__(
        self,
        network="Llama",
        vocab_size=1024,
        emb_dim=128,
        num_heads=4,
        head_dim=32,
        mlp_dim=512,
        num_layers=2,
        attention="bidirectional",
        shifted=True,
        **fields,
    ):
        self.network, self.vocab_size, self.emb_dim, self.num_heads = network, vocab_size, emb_dim, num_heads
        self.head_dim, self.mlp_dim, self.num_layers = head_dim, mlp_dim, num_layers
        self.attention, self.shifted = attention, shifted
        # Fields that some of the networks have: rope_theta, num_buckets, ...; keywords of transformers go on.
        super().__init__(**fields)


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + epsilon) * weight`."""

    def __init__(self, width, epsilon):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x):
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)).to(x.dtype) * self.weight


class Averaged(nn.Module):
    """A weighted sum of the outputs of all sublayers so far (DenseFormer)."""

    def __init__(self, count):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(count))

    def forward(self, outputs):
        return sum(weight * output for weight, output in zip(self.weights, outputs))


class Bias(nn.Module):
    """A bias for each feature."""

    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return x + self.bias


class MLP(nn.Module):
    """`wo(product over i of act_i(wi_i(x)))`, with a norm before `wo` where `epsilon` is given."""

    def __init__(self, config, activations, epsilon=None):
        super().__init__()
        self.activations, self.epsilon = [ACTIVATIONS[name] for name in activations], epsilon
        self.names = ["wi"] if len(activations) == 1 else [f"wi_{i}" for i in range(len(activations))]
        for name in self.names:
            setattr(self, name, nn.Linear(config.emb_dim, config.mlp_dim, bias=False))
        self.wo = nn.Linear(config.mlp_dim, config.emb_dim, bias=False)

    def forward(self, x):
        y = 1
        for activation, name in zip(self.activations, self.names):
            y = y * activation(getattr(self, name)(x))
        return self.wo(y if self.epsilon is None else plain_norm(y, self.epsilon))


class Attention(nn.Module):
    """Projections to heads, and `softmax(scores) v`."""

    def __init__(self, config, bias=False):
        super().__init__()
        joined, self.heads = config.num_heads * config.head_dim, config.num_heads
        for name in ("query", "key", "value"):
            setattr(self, name, nn.Linear(config.emb_dim, joined, bias=bias))
        self.out = nn.Linear(joined, config.emb_dim, bias=bias)

    def split(self, y):
        return y.unflatten(-1, (self.heads, -1)).transpose(-3, -2)  # [..., T, J] -> [..., H, T, K]

    def mixed(self, scores, x):
        weights = torch.softmax(scores.float(), -1).to(x.dtype)
        return (weights @ self.split(self.value(x))).transpose(1, 2).flatten(2)


class PlainLayer(nn.Module):
    """A layer of Llama (`turn` rotates queries and keys) or of T5's decoder (`added` holds its relative bias)."""

    def __init__(self, config, activations, scale, epsilon):
        super().__init__()
        self.scale, self.self_attention = scale, Attention(config)
        self.pre_self_attention_layer_norm = RMSNorm(config.emb_dim, epsilon)
        self.pre_mlp_layer_norm = RMSNorm(config.emb_dim, epsilon)
        self.mlp = MLP(config, activations)

    def forward(self, x, added, turn):
        attention, y = self.self_attention, self.pre_self_attention_layer_norm(x)
        q, k = (rotated(attention.split(project(y)), turn) for project in (attention.query, attention.key))
        x = x + attention.out(attention.mixed(q @ k.mT * self.scale + added, y))
        return x + self.mlp(self.pre_mlp_layer_norm(x))


class BertLayer(nn.Module):
    """A layer of LTG-BERT, or of GPT-BERT: `index` counts its averages over all outputs, None is LTG-BERT."""

    def __init__(self, config, index):
        super().__init__()
        self.epsilon, self.gated = config.epsilon, index is not None
        attention = Attention(config, bias=True)
        if self.gated:
            attention.gate = nn.Linear(config.emb_dim, config.num_heads * config.head_dim)
            self.attention_average, self.mlp_average = Averaged(2 * index + 2), Averaged(2 * index + 3)
        else:
            attention.post_layer_norm = nn.LayerNorm(config.emb_dim, config.epsilon)
        self.self_attention, self.mlp = attention, MLP(config, ("gelu", "linear"), config.epsilon)

    def attend(self, x, added, near, rows):
        """Content to content, content to position and position to content, all by the same projections."""
        attention = self.self_attention
        q, k = attention.split(attention.query(x)), attention.split(attention.key(x))
        near_q, near_k = attention.split(attention.query(near)), attention.split(attention.key(near))
        rows = rows.expand(*q.shape[:2], -1, -1)
        scores = q @ k.mT + torch.gather(q @ near_k.mT, -1, rows) + torch.gather(k @ near_q.mT, -1, rows.mT).mT
        mixed = attention.mixed(scores / math.sqrt(3.0 * q.shape[-1]) + added, x)
        if self.gated:
            return attention.out(plain_norm(mixed * F.gelu(attention.gate(x)), self.epsilon))
        return attention.post_layer_norm(attention.out(mixed))

    def forward(self, x, outputs, added, near, rows):
        outputs.append(x + self.attend(plain_norm(x, self.epsilon), added, near, rows))
        x = self.attention_average(outputs) if self.gated else outputs[-1]
        outputs.append(x + self.mlp(plain_norm(x, self.epsilon)))
        return self.mlp_average(outputs) if self.gated else outputs[-1]


def plain_norm(x, epsilon):
    """A layer norm without gain and bias."""
    return F.layer_norm(x, x.shape[-1:], eps=epsilon)


def rotated(x, turn):
    """The pairs (i, i + K/2) of every head rotated by RoPE's angles; no `turn` leaves them as they are."""
    if turn is None:
        return x
    first, second = x.float().chunk(2, -1)
    return (x.float() * turn[0] + torch.cat([-second, first], -1) * turn[1]).to(x.dtype)


def rope(length, config, device):
    """Cosines and sines of `position * theta^(-2i/K)`."""
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    frequencies = torch.from_numpy((float(config.rope_theta) ** -exponents).astype(np.float32)).to(device)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def t5_buckets(config):
    """The buckets of key - query = -max_distance ... max_distance (T5, section 2.1)."""
    relative = np.arange(-config.max_distance, config.max_distance + 1)
    distance = np.abs(relative) if config.bidirectional_bias else np.maximum(-relative, 0)
    side = config.num_buckets // 2 if config.bidirectional_bias else config.num_buckets
    exact = side // 2
    ratio = distance.astype(np.float32) / np.float32(exact) + np.finfo(np.float32).eps
    far = exact + (np.log(ratio) / math.log(config.max_distance / exact) * (side - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(far, side - 1))
    return bucket + side * (relative > 0) if config.bidirectional_bias else bucket


def log_buckets(config):
    """The rows of the relative embedding for query - key = -(max_position - 1) ... max_position - 1."""
    relative, middle = np.arange(1 - config.max_position, config.max_position), config.num_buckets // 2
    rank = np.log(np.maximum(np.abs(relative), middle) / middle) / math.log((config.max_position - 1) / middle)
    shared = middle + np.ceil(rank * (middle - 1) - 1e-9).astype(np.int64)
    return np.where(np.abs(relative) <= middle, relative, np.sign(relative) * shared) + config.num_buckets - 1


def offsets(length, furthest, device):
    """Query less key [T, S], clipped."""
    places = torch.arange(length, device=device)
    return (places[:, None] - places[None, :]).clamp(-furthest, furthest)


class MixlmPreTrainedModel(PreTrainedModel):
    """Loading and initialising, which the models share."""

    config_class = MixlmConfig
    base_model_prefix = "model"

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


class MixlmModel(MixlmPreTrainedModel):
    """Hidden states before the vocabulary, and `logits` of them."""

    def __init__(self, config):
        super().__init__(config)
        self.token_embedder = nn.Embedding(config.vocab_size, config.emb_dim)
        bert = config.network in ("LTGBert", "GPTBert")
        if bert:
            self.relative_embedding = nn.Parameter(torch.zeros(2 * config.num_buckets - 1, config.emb_dim))
            self.relative_layer_norm = nn.LayerNorm(config.emb_dim, config.epsilon)
            indices = range(config.num_layers) if config.network == "GPTBert" else [None] * config.num_layers
            self.layers = nn.ModuleList(BertLayer(config, index) for index in indices)
            self.head_dense = nn.Linear(config.emb_dim, config.emb_dim)
        else:
            is_llama = config.network == "Llama"
            activations = ("silu", "linear") if is_llama else config.mlp_activations
            scale, epsilon = (config.head_dim**-0.5, config.epsilon) if is_llama else (1.0, 1e-6)
            self.layers = nn.ModuleList(
                PlainLayer(config, activations, scale, epsilon) for _ in range(config.num_layers)
            )
            self.decoder_norm = RMSNorm(config.emb_dim, epsilon)
        if config.network == "DecoderOnly":
            self.relpos_bias = nn.ParameterDict({"rel_embedding": torch.zeros(config.num_heads, config.num_buckets)})
        self.projects = getattr(config, "projection_head", False)
        if self.projects:
            self.projection = nn.Linear(config.emb_dim, config.emb_dim, bias=False)
        if bert or self.projects:
            self.logits_bias = Bias(config.vocab_size)
        self.tied = bert or config.logits_via_embedding
        if not self.tied:
            self.logits_dense = nn.Linear(config.emb_dim, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.token_embedder

    def set_input_embeddings(self, embeddings):
        self.token_embedder = embeddings

    def forward(self, input_ids, attention_mask=None, attention=None, prefix_lengths=None, **unused):
        config, length = self.config, input_ids.shape[1]
        added = mask(input_ids, attention_mask, attention or config.attention, prefix_lengths)
        x, device = self.token_embedder(input_ids), input_ids.device
        if config.network in ("LTGBert", "GPTBert"):
            furthest, outputs = config.max_position - 1, [plain_norm(x, config.epsilon)]
            x, near = outputs[0], self.relative_layer_norm(self.relative_embedding)
            table = torch.from_numpy(log_buckets(config)).to(device)
            rows = table[offsets(length, furthest, device) + furthest]
            for layer in self.layers:
                x = layer(x, outputs, added, near, rows)
            x = plain_norm(F.gelu(self.head_dense(plain_norm(x, config.epsilon))), config.epsilon)
            return BaseModelOutput(last_hidden_state=x)
        turn = rope(length, config, device) if config.network == "Llama" else None
        if turn is None:
            buckets = torch.from_numpy(t5_buckets(config)).to(device)
            places = config.max_distance - offsets(length, config.max_distance, device)
            added = added + self.relpos_bias["rel_embedding"][:, buckets[places]]
        for layer in self.layers:
            x = layer(x, added, turn)
        x = self.decoder_norm(x)
        return BaseModelOutput(last_hidden_state=ACTIVATIONS["gelu"](self.projection(x)) if self.projects else x)

    def logits(self, hidden):
        """Float32 logits of any block of positions."""
        hidden = hidden.float()
        if not self.tied:
            scores = F.linear(hidden, self.logits_dense.weight.float())
        else:
            scores = F.linear(hidden, self.token_embedder.weight.float())
            scores = scores / math.sqrt(self.config.emb_dim) if self.config.network == "DecoderOnly" else scores
        return self.logits_bias(scores) if hasattr(self, "logits_bias") else scores


def mask(input_ids, attention_mask, attention, prefix_lengths):
    """The attention bias [B, 1, T, S] of a mask; padding attends to nothing and is attended to by nothing."""
    if attention not in ATTENTIONS:
        raise ValueError(f"attention is one of {', '.join(ATTENTIONS)}, not {attention!r}.")
    if (attention == "prefix") != (prefix_lengths is not None):
        raise ValueError('prefix_lengths, one a row, belong to attention="prefix", and to it alone.')
    rows, length = input_ids.shape
    places = torch.arange(length, device=input_ids.device)
    limits = places.expand(rows, -1) if attention != "bidirectional" else torch.full_like(input_ids, length - 1)
    if prefix_lengths is not None:
        limits = torch.maximum(limits, prefix_lengths.to(limits)[:, None] - 1)
        limits = torch.where(places < prefix_lengths.to(limits)[:, None], limits, places)
    read = places[None, None, :] <= limits[:, :, None]
    if attention_mask is not None:
        real = attention_mask.bool()
        read = read & real[:, :, None] & real[:, None, :]
    return torch.where(read, 0.0, MASKED)[:, None]


class MixlmForCausalLM(MixlmPreTrainedModel, GenerationMixin):
    """Next-token logits, causal unless `attention` says otherwise; generation without a cache."""

    def __init__(self, config):
        super().__init__(config)
        self.model = MixlmModel(config)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, labels=None, attention="causal", prefix_lengths=None, **unused):
        hidden = self.model(input_ids, attention_mask, attention, prefix_lengths).last_hidden_state
        logits, loss = self.model.logits(hidden), None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **unused):
        return {"input_ids": input_ids, "attention_mask": attention_mask}


class MixlmForMaskedLM(MixlmPreTrainedModel):
    """The network's logits, bidirectional unless `attention` says otherwise; the loss is taken as they are shifted."""

    def __init__(self, config):
        super().__init__(config)
        self.model = MixlmModel(config)
        self.post_init()

    def forward(
        self, input_ids, attention_mask=None, labels=None, attention="bidirectional", prefix_lengths=None, **unused
    ):
        hidden = self.model(input_ids, attention_mask, attention, prefix_lengths).last_hidden_state
        logits, loss = self.model.logits(hidden), None
        if labels is not None:
            said, wanted = (logits[:, :-1], labels[:, 1:]) if self.config.shifted else (logits, labels)
            loss = F.cross_entropy(said.flatten(0, 1), wanted.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)
