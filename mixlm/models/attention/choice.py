"""The choice of an implementation of attention by platform, dtype and width of heads."""

from mixlm.errors import UserError, nearest
from mixlm.models.attention.cudnn import WIDEST, WIDTHS, takes

ATTENTIONS = ("auto", "plain", "recomputed", "splash", "cudnn")
# The implementation for a mask alone, by the platform that a program is compiled for.
BEST = {"tpu": "splash", "gpu": "cudnn", "cuda": "cudnn"}


def check_attention(attention: object) -> None:
    """Raises `UserError` unless `attention` is one of `ATTENTIONS`."""
    if attention not in ATTENTIONS:
        known = ", ".join(ATTENTIONS)
        raise UserError(f"ATTENTION = {attention!r} is none of {known}.{nearest(str(attention), ATTENTIONS)}")


def implementation(attention: str, on: str, dtype: str, width: int) -> str:
    """The implementation of `attention` on a platform, for heads of this width.

    On a CPU the splash kernel runs interpreted, for tests. Raises `UserError` where it is not available.
    """
    is_gpu = BEST.get(on) == "cudnn"
    if attention == "auto":
        best = BEST.get(on, "plain")
        return "plain" if best == "cudnn" and not (dtype == "bfloat16" and takes(width)) else best
    if attention == "cudnn" and not is_gpu:
        raise UserError(f"ATTENTION = 'cudnn' needs a GPU, and this program is for a {on}: leave it 'auto'.")
    if attention == "cudnn" and dtype != "bfloat16":
        raise UserError(f"ATTENTION = 'cudnn' needs DTYPE = 'bfloat16', got {dtype!r}: leave it 'auto'.")
    if attention == "cudnn" and not takes(width):
        raise UserError(
            f"ATTENTION = 'cudnn' needs heads whose width is a multiple of {WIDTHS} and at most {WIDEST}, got {width}: "
            "leave it 'auto'."
        )
    if attention == "splash" and is_gpu:
        raise UserError("ATTENTION = 'splash' needs a TPU, and this program is for a GPU: leave it 'auto'.")
    return attention
