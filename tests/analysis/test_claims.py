"""Verdicts of claims: each kind on cells where it is shown, not shown, opposite and undecided."""

import numpy as np
import pytest
from support.made_up_study import rows_of, study_of, written

from mixlm.analysis import gaussian_process, optimum
from mixlm.analysis.cells import read_cells
from mixlm.analysis.claim_rules import RULES
from mixlm.analysis.claims import judge
from mixlm.analysis.gaussian_process import fit
from mixlm.errors import UserError

LOSS = "validation/causal"
SEEDS = (0, 1, 2, 3)


def arms(tmp_path, claims, means, noise=0.01, lose=None, more=None):
    """Findings on a study of arms whose final losses have these means; seeds share a shift, as paired ones do."""
    rows = []
    for arm, mean in means.items():
        for seed in SEEDS:
            own = rows_of((1.0,), (1,), (seed,), noise=0.0, function=lambda *_, mean=mean: mean)
            wobble = noise * np.random.default_rng([seed, len(arm)]).standard_normal() + 0.2 * seed
            for row in own:
                row |= {"arm": arm, "cell": f"{arm},seed={seed}", LOSS: row[LOSS] + wobble}
                row |= more(arm, seed) if more and row["last"] else {}
                del row["axis/ALPHA"], row["axis/EPOCHS"]
            rows += own
    study = study_of(rows, axes=(), claims=claims, baseline={"arm": next(iter(means))})
    rows = [row for row in rows if row["cell"] != lose]
    return judge(read_cells(written(tmp_path, rows, study)), RULES)


BEATS = {"kind": "beats", "metric": LOSS, "arm": {"arm": "mixture"}, "over": [{"arm": "pure"}, {"arm": "masked"}]}


@pytest.mark.parametrize(
    ("means", "lose", "verdict"),
    [
        ({"mixture": 4.0, "pure": 4.3, "masked": 4.5}, None, "shown"),
        ({"mixture": 4.0, "pure": 4.0, "masked": 4.5}, None, "not shown"),
        ({"mixture": 4.4, "pure": 4.3, "masked": 4.5}, None, "opposite"),
        ({"mixture": 4.0, "pure": 4.3, "masked": 4.5}, "pure,seed=2", "undecided"),
    ],
)
def test_an_arm_beats_others(tmp_path, means, lose, verdict):
    (found,) = arms(tmp_path, [BEATS], means, lose=lose)
    assert found.verdict == verdict
    assert found.figures.startswith("mixture less pure: ") and f"n = {4 if lose is None else 3}" in found.figures


@pytest.mark.parametrize(
    ("threshold", "mixture", "verdict"),
    [(4.2, 4.0, "shown"), (3.9, 4.0, "not shown"), (4.4, 4.6, "opposite"), (4.2, 4.6, "not shown")],
)
def test_a_comparison_in_which_neither_side_is_better_than_the_threshold_counts_as_not_shown(
    tmp_path, threshold, mixture, verdict
):
    claim = {**BEATS, "over": {"arm": "pure"}, "threshold": threshold + 0.3}  # `arms` adds 0.3 to every mean
    (found,) = arms(tmp_path, [claim], {"mixture": mixture, "pure": 4.3})
    assert found.verdict == verdict
    assert ("neither side better than" in found.figures) == (threshold < min(mixture, 4.3))


@pytest.mark.parametrize(("gain", "verdict"), [(0.3, "shown"), (0.0, "not shown"), (-0.3, "opposite")])
def test_an_arm_beats_another_at_each_value_of_an_axis_in_one_family_of_tests(tmp_path, gain, verdict):
    def loss(alpha, epochs, *_):
        return 4.0 - (alpha == 1.0) * (gain if epochs == 4 else 0.5)

    claim = {"kind": "beats", "metric": LOSS, "arm": {"ALPHA": 1.0}, "over": {"ALPHA": 0.5}, "each": "EPOCHS"}
    rows = rows_of((0.5, 1.0), (1, 4), SEEDS, noise=0.01, function=loss, rng=1)
    (found,) = judge(read_cells(written(tmp_path, rows, study_of(rows, claims=[claim]))), RULES)
    assert found.verdict == verdict
    assert [part.partition(":")[0] for part in found.figures.split("; ")] == [
        "ALPHA 1 less ALPHA 0.5 at EPOCHS 1",
        "ALPHA 1 less ALPHA 0.5 at EPOCHS 4",
    ]


def test_a_claim_by_value_takes_the_mean_over_arms_or_names_each(tmp_path):
    """The difference of each seed is a mean over the networks; with "arm" among `each`, every network has its own."""
    rows, ends = [], {}
    for arm, gain in (("t5", 0.4), ("llama", 0.1)):

        def loss(alpha, epochs, *_, gain=gain):
            return 4.0 - alpha * gain * epochs

        own = rows_of((0.0, 1.0), (1, 4), SEEDS, noise=0.01, function=loss, rng=len(arm))
        for row in own:
            row |= {"arm": arm, "cell": f"{arm},{row['cell']}"}
            ends[arm, row["axis/ALPHA"], row["axis/EPOCHS"], row["seed"]] = row[LOSS]
        rows += own
    claim = {"kind": "beats", "metric": LOSS, "arm": {"ALPHA": 1.0}, "over": {"ALPHA": 0.0}}
    claims = [claim | {"each": "EPOCHS"}, claim | {"each": ("arm", "EPOCHS")}]
    both, alone = judge(read_cells(written(tmp_path, rows, study_of(rows, claims=claims))), RULES)

    def mean(epochs, *arms):
        return np.mean([ends[arm, 1.0, epochs, seed] - ends[arm, 0.0, epochs, seed] for arm in arms for seed in SEEDS])

    def told(found):
        parts = (part.split(": ") for part in found.figures.removesuffix(".").split("; "))
        return {place.partition(" at ")[2]: float(figures.split()[0]) for place, figures in parts}

    assert told(both) == {f"EPOCHS {n}": pytest.approx(mean(n, "t5", "llama"), rel=0.01) for n in (1, 4)}
    assert told(alone) == {
        f"{arm}, EPOCHS {n}": pytest.approx(mean(n, arm), rel=0.01) for arm in ("t5", "llama") for n in (1, 4)
    }
    assert both.verdict == alone.verdict == "shown"


def test_a_difference_that_seeds_share_is_seen_although_seeds_differ_more(tmp_path):
    """Seeds are 0.2 apart, arms 0.05: only the pairing shows it."""
    (found,) = arms(tmp_path, [BEATS], {"mixture": 4.0, "pure": 4.05, "masked": 4.05})
    assert found.verdict == "shown"


@pytest.mark.parametrize(
    ("gain", "spread", "verdict"), [(0.3, 0.01, "shown"), (0.3, 2.0, "not shown"), (-0.3, 0.01, "opposite")]
)
def test_a_band_gains_more_than_seeds_differ(tmp_path, gain, spread, verdict):
    def more(arm, seed):
        own = 0.01 * np.random.default_rng([seed, len(arm)]).standard_normal()
        return {"validation/causal/rest": 7.0 + spread * seed + own - (gain if arm == "mile" else 0.0)}

    claim = {"kind": "band_gains", "metric": "validation/causal/rest", "beside": LOSS, "arm": {"arm": "mile"},
             "over": {"arm": "plain"}}  # fmt: skip
    (found,) = arms(tmp_path, [claim], {"plain": 4.0, "mile": 4.0}, more=more)
    assert found.verdict == verdict and f"{LOSS}: " in found.figures


@pytest.mark.parametrize(
    ("mean", "share", "verdict"), [(4.0, 0.9, "shown"), (4.49, 0.9, "not shown"), (5.5, 1.0, "opposite")]
)
def test_an_arm_reaches_a_loss_with_fewer_flops(tmp_path, mean, share, verdict):
    claim = {"kind": "cheaper", "metric": LOSS, "arm": {"arm": "stage"}, "over": {"arm": "plain"}, "share": share}
    (found,) = arms(tmp_path, [claim], {"plain": 4.5, "stage": mean}, noise=0.002)
    assert found.verdict == verdict
    assert found.figures.startswith("ratio " if verdict != "opposite" else "not reached by 4 of 4")


@pytest.mark.parametrize(
    ("first", "last", "verdict"), [(2.0, 0.5, "shown"), (0.5, 2.0, "opposite"), (2, 1.5, "not shown")]
)
def test_costs_cross(tmp_path, first, last, verdict):
    def more(arm, seed):
        noise = 1 + 0.01 * np.random.default_rng(seed).standard_normal()
        costs = {"diffusion_16": first, "diffusion_256": last, "cached_16": 1.0, "cached_256": 1.0}
        return {f"evaluation/{name}": cost * (noise if "diff" in name else 1) for name, cost in costs.items()}

    claim = {"kind": "crossing", "at": [16, 256], "costs": ["evaluation/diffusion_16", "evaluation/diffusion_256"],
             "over_costs": ["evaluation/cached_16", "evaluation/cached_256"]}  # fmt: skip
    (found,) = arms(tmp_path, [claim], {"a": 4.0}, more=more)
    assert found.verdict == verdict
    if verdict != "not shown":
        assert float(found.figures.split("crossing is at ")[1].split()[0]) == pytest.approx(64, rel=0.05)


@pytest.mark.parametrize(("direction", "verdict"), [("falls", "shown"), ("rises", "opposite")])
def test_an_optimum_moves(tmp_path, monkeypatch, direction, verdict):
    monkeypatch.setattr(optimum, "DRAWS", 200)
    monkeypatch.setattr(gaussian_process, "RESTARTS", 0)
    monkeypatch.setattr(optimum, "fit", lambda inputs, values: fit(inputs, values, chain=0))
    claim = {"kind": "optimum_moves", "metric": LOSS, "axis": "ALPHA", "along": "EPOCHS", "direction": direction}
    rows = [row for row in rows_of(epochs=(1, 64), seeds=(0, 1)) if row["last"]]
    study = study_of(rows, claims=[claim])
    (found,) = judge(read_cells(written(tmp_path, rows, study)), RULES)
    assert found.verdict == verdict
    (found,) = judge(read_cells(written(tmp_path, rows[1:], study)), RULES)
    assert (found.verdict, found.figures) == ("undecided", "no value of `ALPHA=1.0,EPOCHS=1,seed=0`.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"over": {"EPOCHS": 4}}, "names 'EPOCHS'"),
        ({"metric": "validation/casual"}, "Did you mean 'validation/causal'"),
        ({"wher": {}}, "Did you mean 'where'"),
        ({"arm": "mixture"}, "is a selector"),
        ({"threshold": "low"}, "threshold = 'low' is no number"),
    ],
)
def test_a_claim_about_what_is_not_there_is_one_sentence(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        arms(tmp_path, [BEATS | change], {"mixture": 4.0, "pure": 4.3, "masked": 4.5})


def test_a_claim_about_cells_that_a_reduced_study_lacks_is_undecided(tmp_path):
    (found,) = arms(tmp_path, [BEATS], {"mixture": 4.0, "pure": 4.3})
    assert found.verdict == "undecided" and "asks for arm 'masked', which has mixture, pure" in found.figures
