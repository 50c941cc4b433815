"""PyTorch's step of decoder-bench's Llama, for `step.py --peers`: eager, and by torch.compile."""

import os
import time
from typing import Any

import numpy as np


class Peer:
    """The network, batch and optimizer of a case of `step.py` in PyTorch and transformers, with its FLOPs.

    Rows are the same; the target of a row's last token is random, so that as many positions are scored. AdamW is the
    fused one, attention is `scaled_dot_product_attention`, and all cores are PyTorch's.
    """

    temporaries = xla_flops = 0.0  # those of XLA's program alone

    def __init__(self, name: str, like: Any, compiled: bool):
        self.name, self.like, self.compiled = name, like, compiled
        self.batch_size, self.block_length = like.batch_size, like.block_length

    def begin(self) -> None:
        """Builds and compiles, and takes the first step; the case that it is like has begun."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.set_num_threads(os.cpu_count() or 1)
        torch.manual_seed(0)
        network = self.like.modules["model"]
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=network.vocab_size, hidden_size=network.emb_dim, intermediate_size=network.mlp_dim,
                num_hidden_layers=network.num_layers, num_attention_heads=network.num_heads,
                max_position_embeddings=self.block_length, tie_word_embeddings=network.logits_via_embedding,
                use_cache=False, attn_implementation="sdpa",
            )
        ).train()  # fmt: skip
        self.parameters = sum(each.numel() for each in model.parameters())
        self.model = torch.compile(model, dynamic=False) if self.compiled else model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        size = (self.batch_size, self.block_length + 1)
        self.rows = torch.from_numpy(np.random.default_rng(0).integers(200, network.vocab_size - 200, size))
        self.loss, self.clip = torch.nn.functional.cross_entropy, torch.nn.utils.clip_grad_norm_
        self.flops, self.times = self.like.flops, []
        self.run()
        self.times.clear()

    def run(self) -> None:
        """Takes a step and notes how long it took."""
        begun = time.perf_counter()
        logits = self.model(input_ids=self.rows[:, :-1]).logits
        loss = self.loss(logits.flatten(0, 1), self.rows[:, 1:].flatten())
        loss.backward()
        self.clip(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.last = float(loss.detach())
        self.times.append(time.perf_counter() - begun)
