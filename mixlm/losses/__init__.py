"""Token losses as (total, count) terms; logits are computed in chunks."""

from mixlm.losses.score import Scored, score, score_rows, token_costs
from mixlm.losses.terms import Term, binary_terms, weighted_sum
from mixlm.losses.token_losses import CrossEntropy, Focal, MiLe, TokenLoss, cross_entropy

__all__ = [
    "CrossEntropy",
    "Focal",
    "MiLe",
    "Scored",
    "Term",
    "TokenLoss",
    "binary_terms",
    "cross_entropy",
    "score",
    "score_rows",
    "token_costs",
    "weighted_sum",
]
