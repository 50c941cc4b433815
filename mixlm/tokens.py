"""Special token ids: plain numbers, so that an objective can be static under jit."""

from dataclasses import dataclass

from mixlm.errors import UserError


@dataclass(frozen=True)
class TokenIds:
    """The special ids of a vocabulary of `vocab_size` ids, laid out as T5 does: pad 0, eos 1, unk 2, sentinels on top.

    The sentinel of span k (`<extra_id_k>`) is `vocab_size - 1 - k`, for k < `sentinels`. `mask` replaces a token in
    masked objectives and `bos` starts a decoder (T5 starts with pad).
    """

    vocab_size: int
    mask: int
    pad: int = 0
    eos: int = 1
    unk: int = 2
    bos: int = 0
    sentinels: int = 100

    def __post_init__(self) -> None:
        for name in ("mask", "pad", "eos", "unk", "bos"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise UserError(
                    f"TokenIds.{name} = {getattr(self, name)} is outside of the vocabulary's {self.vocab_size} ids."
                )
        if not 0 <= self.sentinels < self.vocab_size:
            raise UserError(f"{self.sentinels} sentinels do not fit into {self.vocab_size} ids.")

    @property
    def first_sentinel(self) -> int:
        """The id of `<extra_id_0>`, the highest of the vocabulary; the sentinels descend from it."""
        return self.vocab_size - 1
