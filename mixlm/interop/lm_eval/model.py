"""The harness's three requests, answered by a run: log-likelihoods, rolling ones, and texts until a stop string."""

import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from mixlm.api.run import Run
from mixlm.decoding.select import trained_selections
from mixlm.errors import UserError, nearest
from mixlm.evaluation.modes import modes_of
from mixlm.evaluation.questions import Answer, answer_sentences, window_sentences
from mixlm.interop.lm_eval.generation import Generator
from mixlm.interop.loaded import BATCH_TOKENS, Loaded
from mixlm.recipe import Recipe

NAME = "mixlm"
DEVICE = "cuda:0"  # what the harness says where its user says nothing
_log = logging.getLogger(__name__)


class RunModel:
    """A run in one scoring mode; `model_class` makes it a model of the harness.

    Args:
      run: the run's folder, with `@STEP`, `@best` or `@chck_1M` for one of its checkpoints, or a `Run`.
      mode: a scoring mode by its name; without `shifted` or `unshifted` in it, that of the run's training.
      max_length: tokens that are read at once; None is the length of the rows in training. Of longer questions the
        end is read.
      batch_tokens: the size of a batch, padding included; `batch_size` above 1 is so many rows of `max_length`.
      samples: noise samples of a diffusion bound, which all answers to a question share, as does `seed`.
      how: the decoding of `generate_until` by name; None is what the mode reads, or what the run was trained for.
      max_gen_toks: new tokens at most, where a task does not say it.
      network: the network, where the run has several.

    Raises UserError for a folder without a run, a mode that its network does not have, and an argument without effect.
    """

    def __init__(
        self,
        run: str | os.PathLike[str] | Run | None = None,
        mode: str = "causal",
        max_length: int | None = None,
        batch_tokens: int | None = None,
        samples: int = 16,
        seed: int = 0,
        how: str | None = None,
        max_gen_toks: int = 64,
        network: str = "model",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        _refuse(unknown, max_batch_size, device)
        if run is None:
            raise UserError("--model_args names the run: run=RUN,mode=MODE.")
        self.loaded = Loaded(run if isinstance(run, Run) else Run(str(run)), network, say=_log.info)
        recipe, module = self.loaded.recipe, self.loaded.module
        self._seed, self._how, self._new_tokens, self._before = seed, how, max_gen_toks, recipe.before
        self._max_length = recipe.block_length if max_length is None else _whole("max_length", max_length)
        self.loaded.batch_tokens = _batch_tokens(batch_tokens, batch_size, self._max_length)
        modes = modes_of(module, recipe.tokens, samples, seed, answer=True, words=True)
        self.mode_name = full_name(mode, modes, trained_shift(recipe), type(module).__name__)
        self.mode = modes[self.mode_name]

    def get_model_info(self) -> dict[str, Any]:
        """The facts that the harness keeps beside its results."""
        return {"run": str(self.loaded.run.folder), "step": self.loaded.checkpoint[0], "mode": self.mode_name}

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The score in nats of each answer given its question, and whether no token of it was less likely than another.

        A bound where the mode is one, and a pseudo-log-likelihood where it is that.
        """
        answers = [
            Answer(question, answer, _group(request, question), _where(request))
            for request in requests
            for question, answer in [request.args]
        ]
        sentences, cut = answer_sentences(self.loaded.vocabulary, answers, self._max_length, self._before)
        if cut:
            _log.warning("%d of %d questions are longer than %d tokens, and their ends are read", cut, len(answers),
                         self._max_length)  # fmt: skip
        with self.loaded.compiled():
            found = self.loaded.scorer.tokens(self.mode, sentences, self.mode_name)
        return list(zip(found.total.tolist(), found.likeliest.tolist()))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The score in nats of each document, read in windows in which every token is scored once."""
        documents = [request.args[0] for request in requests]
        sentences, owners = window_sentences(self.loaded.vocabulary, documents, self._max_length, self._before)
        with self.loaded.compiled():
            total = self.loaded.scorer.tokens(self.mode, sentences, self.mode_name).total
        return np.bincount(owners, weights=total, minlength=len(documents)).tolist()

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """A text for each prompt, up to the first of its stop strings."""
        generator = Generator(
            self.loaded.recipe, self.loaded.network, self.loaded.checkpoint[1], self.loaded.vocabulary, self.mode_name,
            self._how, self._max_length, self._new_tokens, self.loaded.batch_tokens, self._seed,
        )  # fmt: skip
        with self.loaded.compiled():
            return generator([request.args for request in requests])


@cache
def model_class() -> Any:
    """The class of the harness's models for runs; UserError where the harness is not installed."""
    try:
        from lm_eval.api.model import LM
    except ImportError:
        raise UserError("lm-evaluation-harness is not installed: pip install 'mixlm[lm-eval]'.") from None

    class MixlmModel(RunModel, LM):
        """A run of mixlm; see `RunModel`."""

    return MixlmModel


def register() -> None:
    """Makes `mixlm` a name of the harness's models in this process, once."""
    made = model_class()
    import lm_eval.models  # noqa: F401 (a registry that is not empty is taken to have the harness's own already)
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=made)


def full_name(name: str, modes: Mapping[str, Any], shifted: bool | None, network: str) -> str:
    """The name of a mode; `pll` and `diffusion` are those in which the run was trained to predict a masked token."""
    if name in modes:
        return name
    head, _, rest = name.partition("_")
    both = [f"{head}_{each}" + (f"_{rest}" if rest else "") for each in ("shifted", "unshifted")]
    if not all(each in modes for each in both):
        raise UserError(f"{network} has no scoring mode {name!r}, only {', '.join(modes)}.{nearest(name, modes)}")
    if shifted is None:
        raise UserError(f"The run was not trained to predict masked tokens: give mode={both[0]} or mode={both[1]}.")
    return both[0] if shifted else both[1]


def trained_shift(recipe: Recipe) -> bool | None:
    """True where the run predicts a masked token one position to the left, None where it predicts none."""
    return next(
        (each.as_trained["shifted"] for each in trained_selections(recipe) if "shifted" in each.as_trained), None
    )


def _group(request: Any, question: str) -> str:
    """The question that a request belongs to: its document, and where there is none its text."""
    task, document = getattr(request, "task_name", None), getattr(request, "doc_id", None)
    return question if task is None or document is None else f"{task} {document}"


def _where(request: Any) -> str:
    task, document = getattr(request, "task_name", None), getattr(request, "doc_id", None)
    return "a request" if task is None else f"{task}, document {document}"


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{name} is a whole number above 0, not {value!r}.")
    return value


def _batch_tokens(tokens: int | None, rows: int | str | None, length: int) -> int:
    """The size of a batch from either argument; the harness gives a batch size of 1 where its user gave none."""
    asked = None if rows is None or str(rows).partition(":")[0] == "auto" else int(rows)
    if tokens is not None:
        return _whole("batch_tokens", tokens)
    return BATCH_TOKENS if asked in (None, 1) else _whole("--batch_size", asked) * length


def _refuse(unknown: dict[str, Any], max_batch_size: int | None, device: str | None) -> None:
    """Raises UserError for arguments without an effect."""
    known = ("run", "mode", "max_length", "batch_tokens", "samples", "seed", "how", "max_gen_toks", "network")
    for name in unknown:
        raise UserError(f"--model_args has no {name!r}, only {', '.join(known)}.{nearest(name, known)}")
    if device not in (None, DEVICE):
        raise UserError("--device has no effect on mixlm: JAX takes all devices of the platform in JAX_PLATFORMS.")
    if max_batch_size is not None:
        raise UserError("--max_batch_size has no effect on mixlm: give batch_tokens in --model_args.")
