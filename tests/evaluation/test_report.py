"""The table of an evaluation has the columns that have figures."""

from unittest.mock import Mock

import pytest

from mixlm.evaluation.likelihood import CausalLikelihood, Fused
from mixlm.evaluation.minimal_pairs import Accuracies, Interval
from mixlm.evaluation.perplexity import TextFigures
from mixlm.evaluation.report import report
from mixlm.evaluation.run import Prepared
from mixlm.tokens import TokenIds

TOKENS = TokenIds(vocab_size=32, mask=4, bos=3, sentinels=6)


@pytest.mark.parametrize("judged", [False, True])
def test_a_sum_of_modes_has_a_column_where_it_has_a_figure(judged):
    modes = {"causal": CausalLikelihood(TOKENS), "fused_shifted": Fused(())}
    figures = {"causal": TextFigures("likelihood", 1, 4, 8, 2.0, 0.1, 1.0, 0.1), "fused_shifted": None}
    half = Interval(0.5, 0.4, 0.6)
    accuracies = dict.fromkeys(modes, Accuracies({}, {}, half, half, 0, None)) if judged else {}
    prepared = Mock(spec=Prepared, modes=modes, text=Mock(), pairs=judged or None, scoring=Mock())
    lines = report(prepared, figures, accuracies)
    assert ("fused" in lines[1]) == judged
    assert any(line.startswith("fused: ") for line in lines) != judged
