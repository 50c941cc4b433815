# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com)
#
# Upload this file there, and beside it a wheel of mixlm, which `pip wheel --no-deps -w dist .` makes in a checkout.

# %%
# Installs mixlm where it is missing, such as on Colab; all that the runtime has keeps its version.
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("mixlm") is None:
    published, here, has = "", Path.cwd(), {}
    near = [str(each) for each in (here, *here.parents) if (each / "mixlm" / "gin_config").is_dir()]  # a checkout
    near += sorted(map(str, here.glob("mixlm-*.whl")))
    if not near and not published:
        raise ModuleNotFoundError("mixlm is not installed: put a wheel of it beside this notebook and run this again.")
    source = f"{near[0]}[report]" if near else f"mixlm[report] @ git+{published}"
    for each in importlib.metadata.distributions():  # of two versions the first is imported
        has.setdefault(re.sub("[-_.]+", "-", each.name or "").lower(), each.version or "")
    kept = "".join(f"{name}=={version}\n" for name, version in has.items() if re.match(r"\d[\w.+!]*$", version))
    command = [sys.executable, "-m", "pip", "install", "-q", "--constraint=/dev/stdin", source]
    subprocess.run(command, input=kept, text=True, check=True)
    importlib.invalidate_caches()

# %% [markdown]
# # Your text, your objective, your sweep
#
# A paper's worth of work at a small size: a text of yours, an objective in one cell, a sweep over its rate, and the
# model exported for transformers. It runs from top to bottom in under ten minutes on two CPU cores.

# %%
import os

import mixlm

FAST = os.environ.get("MIXLM_FAST") == "1"  # the smallest size, for tests: everything runs, and nothing is learned
STEPS = 8 if FAST else 400
RATES = (0.0, 0.5)

# %% [markdown]
# ## Your text
#
# A file or a folder of text. Here it is what Python says of its own library, which is on every machine; put your own
# files there instead.

# %%
import importlib
from pathlib import Path

MODULES = "argparse array asyncio base64 bisect calendar cmath collections configparser contextlib copy csv ctypes"
MODULES += " datetime decimal difflib email enum fractions functools glob gzip hashlib heapq http inspect io itertools"
MODULES += " json logging math os pathlib pickle queue random re shutil signal socket statistics string"
MODULES += " struct subprocess tarfile tempfile textwrap threading time traceback types urllib uuid zipfile"
Path("texts").mkdir(exist_ok=True)
for name in MODULES.split():
    module = importlib.import_module(name)
    said = [value.__doc__ for key, value in vars(module).items() if not key.startswith("_")]
    said = dict.fromkeys(text for text in [module.__doc__, *said] if isinstance(text, str))
    Path("texts", f"{name}.txt").write_text("\n\n".join(said), encoding="utf-8")
print(sum(path.stat().st_size for path in Path("texts").glob("*.txt")) // 1000, "kB in", len(MODULES.split()), "files")

# %% [markdown]
# ## Your objective
#
# A frozen dataclass that turns rows of tokens into an example, on the device. This one is fill-in-the-middle
# ([Bavarian et al. 2022](https://arxiv.org/abs/2207.14255)): a row is cut in three at random places, and the middle
# moves to the end, so that a causal model learns to write what stands between two texts. `rate` is the share of rows
# that are rearranged; as its name stands in `traced`, a sweep over it compiles once.

# %%
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from mixlm.example import Example
from mixlm.losses.token_losses import CrossEntropy
from mixlm.objectives.base import Decoding, score_example
from mixlm.objectives.causal import Causal
from mixlm.objectives.corruption import shift_right
from mixlm.tokens import TokenIds


@dataclass(frozen=True)
class FillInTheMiddle:
    """Rows `<pre> prefix <suf> suffix <mid> middle`, read and scored causally; other rows stay as they are."""

    tokens: TokenIds
    rate: float = 0.5
    name: ClassVar[str] = "fim"
    networks: ClassVar[tuple[str, ...]] = ("model",)
    traced: ClassVar[tuple[str, ...]] = ("rate",)

    def block_length(self, lengths):
        return lengths["targets"]

    def rearranged(self, key, row):  # [L] -> [L]
        length, first = row.shape[0], self.tokens.first_sentinel
        cut_key, choice_key = jax.random.split(key)
        kept = length - 3  # three tokens at the end make room for the sentinels
        start, stop = jnp.sort(jax.random.randint(cut_key, (2,), 0, kept + 1))
        place = jnp.arange(kept)
        # Each token's place in the new order: the prefix as it is, the suffix behind it, the middle last.
        order = jnp.where(place < start, place, jnp.where(place >= stop, place + length, place + 2 * length))
        marks = jnp.array([-1, length - 1, 2 * length - 1])  # before the prefix, the suffix, the middle
        pieces = jnp.concatenate([first - jnp.arange(3, dtype=row.dtype), row[:kept]])
        moved = pieces[jnp.argsort(jnp.concatenate([marks, order]))]
        return jnp.where(jax.random.uniform(choice_key) < self.rate, moved, row)

    def corrupt(self, keys, batch, step=0):
        rows = jax.vmap(self.rearranged)(keys, batch["tokens"])
        sentinels = rows > self.tokens.first_sentinel - 3
        return Example(
            decoder_input_tokens=jax.vmap(lambda row: shift_right(row, self.tokens.bos))(rows),
            decoder_target_tokens=rows,
            decoder_loss_weights=(~sentinels).astype(jnp.float32),  # where the cuts are, nobody can know
            decoder_mask_ar=jnp.ones_like(rows),
        )

    def __call__(self, nets, batch, keys, step):
        return score_example(nets["model"], self.corrupt(keys, batch), self.name, CrossEntropy())

    @property
    def decodings(self):
        return (Decoding("autoregressive"),)


# %% [markdown]
# A recipe takes it by value: the network, optimizer and loop are those of `mile`.

# %%
SIZE = {"EMB_DIM": 96, "Llama.num_heads": 3, "Llama.mlp_dim": 256, "TASK_FEATURE_LENGTHS": {"targets": 64}}
SIZE |= {"TRAIN_STEPS": STEPS, "BATCH_SIZE": 32, "EVAL_BATCHES": 4, "EVAL_PERIOD": STEPS, "CHECKPOINT_PERIOD": STEPS}
SIZE |= {"VOCAB_SIZE": 512, "RECIPE": "fim", "FREQUENCY_BANDS": ()}
tokens = mixlm.load_recipe("mile.gin", text="texts", VOCAB_SIZE=512).tokens
OURS = SIZE | {"OBJECTIVE": FillInTheMiddle(tokens), "VALIDATION": (Causal(tokens),)}
recipe = mixlm.load_recipe("mile.gin", text="texts", MODEL_DIR="runs/fim", **OURS)

runtime = mixlm.runtime()
print(runtime)
runtime.estimate(one_cell=recipe)

# %% [markdown]
# What it makes of a sentence, before anything is trained: in one of two copies the middle stands last, and the
# sentinels before the three parts are not scored.

# %%
SENTENCE = "Return a new list with the items of the iterable in ascending order."
mixlm.corrupt(recipe, SENTENCE, rows=2)

# %%
mixlm.loss_terms(recipe, SENTENCE, rows=2)

# %% [markdown]
# ## Your sweep
#
# Half of the rows rearranged, against none. Validation reports the plain causal loss beside: does it cost anything to
# learn the middle?

# %%
study = mixlm.load_study("mile.gin", text="texts", axes={"FillInTheMiddle.rate": RATES}, seeds=1, **OURS)
trained = mixlm.sweep(study, say=lambda line: None, together=len(RATES))
trained

# %%
found = mixlm.results(trained)
found.table("validation/causal")

# %%
found.final("validation/causal", "FillInTheMiddle.rate")

# %% [markdown]
# ## Your model, elsewhere
#
# A folder that `transformers` loads with equal logits, with a fast tokenizer and a model card. It needs the extra
# `mixlm[hf]` to be loaded there.

# %%
if importlib.util.find_spec("tokenizers") is None:
    print("The export's tokenizer needs: pip install 'mixlm[hf]'")
else:
    folder = mixlm.export(trained[study.cells[-1].name], "exported")
    print(*sorted(path.name for path in folder.iterdir()), sep="\n")
