"""A case of `fast` in PyTorch: `transformers`' Llama or T5 with SDPA, bfloat16 autocast, fused AdamW, torch.compile.

The layers, and the head with its loss, are compiled each as one function, which layers share, since that takes seconds
where a whole network takes minutes; `whole` compiles the network as one.
"""

import gc
import time
from functools import partial
from typing import Any

from cases import Device, out_of_memory
from timing import CEILING, timed

import torch  # isort: skip
import torch.nn.functional as F

WHERE = "cuda" if torch.cuda.is_available() else "cpu"
# The same chips as mixlm.perf.chips, by PyTorch's names: dense bfloat16 FLOP/s.
PEAKS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}


def llama(sizes: dict[str, Any]) -> Any:
    """A decoder without cache and with an untied head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=sizes["vocab"], hidden_size=sizes["width"], intermediate_size=sizes["mlp"],
        num_hidden_layers=sizes["layers"], num_attention_heads=sizes["heads"],
        max_position_embeddings=sizes["length"], tie_word_embeddings=False, use_cache=False,
        rope_parameters={"rope_type": "default", "rope_theta": sizes["theta"]}, attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config)


def t5(sizes: dict[str, Any]) -> Any:
    """T5 1.1 without dropout, as it is pretrained; with SDPA where this transformers has it for T5."""
    from transformers import T5Config, T5ForConditionalGeneration

    settings = dict(
        vocab_size=sizes["vocab"], d_model=sizes["width"], d_kv=64, d_ff=sizes["mlp"], num_layers=sizes["layers"],
        num_decoder_layers=sizes["layers"], num_heads=sizes["heads"], dropout_rate=0.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    try:
        return T5ForConditionalGeneration(T5Config(**settings, attn_implementation="sdpa"))
    except ValueError:
        return T5ForConditionalGeneration(T5Config(**settings, attn_implementation="eager"))


class LlamaLoss:
    """Hidden states by compiled layers, then head and loss in one compiled function."""

    def __init__(self, model: Any, compiled: Any):
        self.model, self.head = model, compiled(self.loss)
        for layer in model.model.layers:
            layer.forward = compiled(layer.forward)

    def loss(self, hidden: Any, targets: Any) -> Any:
        """Mean cross-entropy in float32."""
        return F.cross_entropy(self.model.lm_head(hidden).float().flatten(0, 1), targets.flatten())

    def __call__(self, rows: dict[str, Any]) -> Any:
        tokens = rows["tokens"]
        hidden = self.model.model(input_ids=tokens[:, :-1]).last_hidden_state
        return self.head(hidden, tokens[:, 1:])


class T5Loss:
    """The same for an encoder and a decoder."""

    def __init__(self, model: Any, compiled: Any):
        self.model, self.head = model, compiled(self.loss)
        for stack in (model.encoder, model.decoder):
            for layer in stack.block:
                layer.forward = compiled(layer.forward)

    loss = LlamaLoss.loss

    def __call__(self, rows: dict[str, Any]) -> Any:
        encoded = self.model.encoder(input_ids=rows["inputs"]).last_hidden_state
        before = F.pad(rows["targets"][:, :-1], (1, 0))
        decoder = self.model.decoder(input_ids=before, encoder_hidden_states=encoded, use_cache=False)
        return self.head(decoder.last_hidden_state, rows["targets"])


def whole_loss(model: Any, compiled: Any, kind: str) -> Any:
    """The network with its own loss, compiled as one function."""
    run = compiled(model)
    if kind == "t5":
        return lambda rows: run(input_ids=rows["inputs"], labels=rows["targets"]).loss
    return lambda rows: run(input_ids=rows["tokens"][:, :-1], labels=rows["tokens"][:, :-1]).loss


def batch(kind: str, sizes: dict[str, Any], rows: int) -> dict[str, Any]:
    """Random tokens."""
    lengths = (
        {"inputs": sizes["inputs"], "targets": sizes["targets"]} if kind == "t5" else {"tokens": sizes["length"] + 1}
    )
    return {
        name: torch.randint(200, sizes["vocab"] - 200, (rows, length), device=WHERE) for name, length in lengths.items()
    }


def tiny(sizes: dict[str, Any]) -> dict[str, Any]:
    """The same kind of network, small."""
    small = {
        "vocab": 1000,
        "width": 128,
        "mlp": 256,
        "layers": 2,
        "heads": 2,
        "length": 64,
        "inputs": 64,
        "targets": 16,
    }
    return sizes | {name: value for name, value in small.items() if name in sizes}


def measure(device: Device, model: Any, rows: int, like: dict[str, Any]) -> None:
    """Compiles, steps, and notes what was seen."""
    settings, kind = device.settings, device.settings["kind"]
    sizes = tiny(settings["sizes"]) if settings["tiny"] else settings["sizes"]
    compiled = partial(torch.compile, dynamic=False)
    if settings.get("whole"):
        loss = whole_loss(model, compiled, kind)
    else:
        loss = (T5Loss if kind == "t5" else LlamaLoss)(model, compiled)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    given, seen = batch(kind, sizes, rows), {}

    def step() -> None:
        with torch.autocast(WHERE, dtype=torch.bfloat16):
            seen["loss"] = loss(given)
        seen["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    begun = time.monotonic()
    step()
    first = float(seen["loss"].detach())
    device.note(rows=rows, compile_seconds=time.monotonic() - begun)
    times = timed(step, synchronize, blocks=2 if settings["tiny"] else 7)
    # Tokens are counted as mixlm's case counts them: those of the text.
    length = like.get("length") or sizes.get("length") or sizes["inputs"] + sizes["targets"]
    flops = like["model_flops"] / like["rows"] * rows if like.get("model_flops") else None
    median, peak = times["step_seconds"], PEAKS.get(name_of_device())
    device.note(
        **times,
        length=length,
        tokens_per_second=rows * length / median,
        tflops=flops and flops / median / 1e12,
        mfu=flops and peak and flops / median / peak,
        peak_bytes=torch.cuda.max_memory_allocated() if WHERE == "cuda" else None,
        attention=model.config._attn_implementation,
        first_loss=first,
        last_loss=float(seen["loss"].detach()),
    )


def step_case(device: Device) -> None:
    """The batch of mixlm's case, or half of it as often as memory runs out."""
    settings = device.settings
    sizes = tiny(settings["sizes"]) if settings["tiny"] else settings["sizes"]
    build = t5 if settings["kind"] == "t5" else llama
    build(tiny(settings["sizes"]))  # what transformers imports
    like = device.wait() or {}
    rows, refused = like.get("rows") or 8, []
    while rows > 1 and WHERE == "cuda" and sizes["gigabytes"] * rows > 0.85 * torch.cuda.mem_get_info()[1] / 1e9:
        rows //= 2
    while rows:
        try:
            with torch.device(WHERE):
                model = build(sizes).train()
            measure(device, model, rows, like)
            return
        except Exception as error:
            if not out_of_memory(error):
                raise
            refused.append(f"{rows} rows: {str(error)[:150]}")
            device.note(refused=refused)
            model = error = None
            gc.collect()
            torch.cuda.empty_cache()
            rows //= 2
    raise MemoryError(f"no batch fits: {refused}")


def ceiling(device: Device) -> None:
    """The rate of one large product of random bfloat16 numbers."""
    device.wait()
    size = 512 if device.settings["tiny"] else CEILING
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=WHERE) for _ in range(2))
    times = timed(lambda: a @ b, synchronize)
    rate, peak = 2 * size**3 / times["step_seconds"], PEAKS.get(name_of_device())
    device.note(
        **times,
        tflops=rate / 1e12,
        of_peak=peak and rate / peak,
        device=name_of_device(),
        torch=torch.__version__,
    )


def synchronize() -> None:
    """Waits for the device."""
    if WHERE == "cuda":
        torch.cuda.synchronize()


def name_of_device() -> str:
    """Its kind, as the driver has it."""
    return torch.cuda.get_device_name() if WHERE == "cuda" else "cpu"


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = 64
    device = Device()
    try:
        ceiling(device) if device.settings["kind"] == "ceiling" else step_case(device)
    except Exception as error:
        device.note(error=f"{type(error).__name__}: {error}"[:1500])
        raise
    device.done()
