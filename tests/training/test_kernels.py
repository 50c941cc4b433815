"""A start says which kernel it leaves out, and an evaluation of the run leaves it out as well."""

import pytest
from support.small_run import recipe

from mixlm.errors import UserError
from mixlm.models.attention import dispatch
from mixlm.models.attention.dot_product import attend, mask_bias
from mixlm.models.layer_stack import Execution
from mixlm.models.llama import Llama
from mixlm.perf import kernel_proofs
from mixlm.training.run import explain

TINY = {"vocab_size": 112, "emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 16, "num_layers": 1}


def too_much(q, k, v, mask, bias):
    return 1.1 * attend(q, k, v, (mask_bias(mask.dense()),), 1.0, True)


@pytest.mark.slow
def test_a_start_says_what_it_leaves_out(corpus, tmp_path, monkeypatch):
    kernel_proofs.forget()
    monkeypatch.setattr(dispatch, "platform", lambda: "tpu")
    monkeypatch.setitem(dispatch.RUNS, "splash", too_much)
    said = []
    explain(recipe(str(corpus), str(tmp_path / "run"), networks={"model": Llama(**TINY)}), said.append)
    (line,) = [line for line in said if "attention" in line]
    assert "splash attention, float32, mask, 100 x 100 positions, 2 heads of 8 differs: its " in line
    forced = Llama(**TINY, execution=Execution(attention="splash"))
    with pytest.raises(UserError, match=r"^ATTENTION = 'splash': splash attention, .* differs: "):
        explain(recipe(str(corpus), str(tmp_path / "run"), networks={"model": forced}), said.append)
    kernel_proofs.forget()
