"""One override of a recipe's length or batch is enough to try it; at its own length nothing changes."""

import re
from contextlib import suppress

import pytest
from support.places import GIN

from mixlm.errors import UserError
from mixlm.gin_config.build import configured
from mixlm.gin_config.flags import parse_flags
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.recipe import Recipe, microbatches_of
from mixlm.schedules import WSD, Cosine, Linear, Scaled, scaled_down, scaled_to
from mixlm.tokens import TokenIds

RECIPES = sorted(path.stem for path in GIN.glob("*.gin") if path.stem not in ("base", "evaluate", "study"))
SCALES = sorted(path.stem for path in (GIN / "scale").glob("*.gin"))


def built(*arguments: str) -> Recipe:
    return configured(parse_flags([f"--{argument}" for argument in arguments], ""), Recipe)


def scale(name: str, *arguments: str) -> Recipe:
    recipe = next(each for each in sorted(RECIPES, key=len, reverse=True) if name.startswith(each))
    return built(f"gin_file={recipe}.gin", f"gin_file=scale/{name}.gin", *arguments)


@pytest.mark.parametrize(("number", "of"), [(100, 400), (300, 500), (1000, 100_000), (0, 7), (7, 7)])
def test_a_scaled_number_keeps_its_share_of_a_shorter_run_and_itself_in_a_longer_one(number, of):
    scaled = Scaled(number, of)
    for length in (1, 2, 3, 4, of // 2, of - 1, of, of + 1, 9 * of):
        # The nearest whole number to the share, halves up.
        assert scaled.over(length) == min(number, int(number * length / of + 0.5)), length
    assert repr(scaled) == str(number)  # what runs of earlier versions recorded in its place


def test_a_schedule_is_scaled_to_its_run_and_says_so():
    cosine = Cosine(1.0, warmup_steps=Scaled(100, 400), final_fraction=0.1)
    assert cosine.over(400) == Cosine(1.0, 400, 100, 0.1) and cosine.over(4) == Cosine(1.0, 4, 1, 0.1)
    assert WSD(1.0, 8, Scaled(10, 40)).over(8) == WSD(1.0, 8, 2)
    assert Linear(0.0, 1.0, None, Scaled(6, 10)).over(5) == Linear(0.0, 1.0, 2, 3)
    assert list(scaled_down((cosine, {"a": cosine}), 4)) == ["Cosine.warmup_steps 100 -> 1"] * 2
    assert list(scaled_down(cosine, 400)) == [] and scaled_to(cosine, 400).total_steps is None
    with pytest.raises(UserError, match="does not know how long its warm-up is"):
        Cosine(1.0, 8, Scaled(1, 4))(0)
    with pytest.raises(UserError, match=r"^Scaled.number = 5 must be at most Scaled.of = 4\.$"):
        Scaled(5, 4)


QUICK = ("antlm", "ar2diff")  # epochs and a warm-up, and two stages


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in RECIPES])
def test_any_length_alone_is_enough_to_try_a_recipe(name):
    for steps in (1, 2, 4):
        recipe = built(f"gin_file={name}.gin", f"gin.TRAIN_STEPS={steps}").settled(None)
        spans = recipe.stages.spans(recipe.steps)
        assert sum(count for _, count in spans) == steps
        warmup = getattr(recipe.optimizer.learning_rate, "warmup_steps", 0)
        assert warmup <= steps / 2
        assert steps == 1 or float(recipe.optimizer.learning_rate(steps // 2)) > 0
        scaled = name in ("spactor", "ar2diff", "mile", "antlm")
        assert bool(recipe.scaled) is scaled, recipe.scaled


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALES)
def test_any_length_or_batch_alone_is_enough_to_try_a_size(name):
    assert scale(name, "gin.TRAIN_STEPS=4").settled(None).steps == 4
    for rows in (1, 2, 3):
        assert scale(name, f"gin.BATCH_SIZE={rows}").microbatches == 1


def test_microbatches_of_a_smaller_batch_hold_no_more_rows():
    for rows, parts in ((32768, 8), (65536, 16), (16384, 4), (4096, 1), (12288, 3), (12290, 5)):
        assert microbatches_of(rows, 4096) == parts
    assert scale("gpt_bert", "gin.BATCH_SIZE=16384").microbatches == 4
    with pytest.raises(UserError, match="8 MICROBATCHES do not divide a BATCH_SIZE of 4 rows"):
        scale("gpt_bert", "gin.BATCH_SIZE=4", "gin.MICROBATCHES=8")


def test_at_its_own_length_a_recipe_has_the_numbers_that_its_runs_recorded():
    mile, spactor = built("gin_file=mile.gin"), built("gin_file=spactor.gin")
    assert "Cosine(peak=0.003, total_steps=1000, warmup_steps=100, final_fraction=0.1," in mile.identity()["optimizer"]
    assert [start for start in re.findall(r"Stage\(start=(\d+)", spactor.identity()["curriculum"])] == ["0", "1000"]
    antlm = built("gin_file=antlm.gin")
    assert "total_steps=None, warmup_steps=100, " in antlm.identity()["optimizer"]
    assert antlm.settled(340_000).optimizer.learning_rate.warmup_steps == 100
    assert scale("mile_7b").optimizer.learning_rate.warmup_steps == 2000
    assert [stage.start for stage in scale("ar2diff").stages.stages] == [0, 1_000_000]
    for recipe in (mile, spactor, antlm.settled(340_000)):
        assert recipe.scaled == ()
    # A longer run keeps the recipe's numbers.
    assert built("gin_file=mile.gin", "gin.TRAIN_STEPS=9000").optimizer.learning_rate.warmup_steps == 100


def test_what_the_user_sets_is_not_scaled():
    with pytest.raises(UserError, match=r"^WARMUP_STEPS = 100 is longer than the whole run \(total_steps = 4\)"):
        built("gin_file=mile.gin", "gin.TRAIN_STEPS=4", "gin.WARMUP_STEPS=100")
    with pytest.raises(UserError, match=r"starts at step 9 \(TAU\), past the last of 4 steps"):
        built("gin_file=ar2diff.gin", "gin.TRAIN_STEPS=4", "gin.TAU=9")
    assert built("gin_file=spactor.gin", "gin.TRAIN_STEPS=4").scaled == ("Stage.start 1000 -> 3",)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ('{"targets":128,"target":9}', "has 'target', and the objectives read targets alone. Did you mean 'targets'?"),
        ('{"targets":0}', "TASK_FEATURE_LENGTHS['targets'] must be a whole number above 0, got 0."),
        ('{"targets":-1}', "TASK_FEATURE_LENGTHS['targets'] must be a whole number above 0, got -1."),
        ('{"targets":4294967296}', "is beyond 2^31 - 1"),
    ],
)
def test_every_feature_length_is_read_and_positive(lengths, words):
    with pytest.raises(UserError) as error:
        built("gin_file=dual.gin", f"gin.TASK_FEATURE_LENGTHS={lengths}")
    assert words in str(error.value)


@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.5, 1.5), (0.9, 20.0), (0.15, 1.0)])
def test_a_row_of_spans_is_found_as_by_trying_every_length(density, mean):
    spans = SpanCorruption(TokenIds(9000, 4, sentinels=4000), density, mean)
    tried = {}
    for length in range(2, 120):
        with suppress(UserError):
            tried[spans.lengths(length)] = length
    for (inputs, targets), length in tried.items():
        assert spans.block_length({"inputs": inputs, "targets": targets}) == length
        with pytest.raises(UserError, match=rf"the nearest lengths are {inputs} and {targets}\.$|cannot make"):
            spans.block_length({"inputs": inputs, "targets": targets + 7000})


def test_a_row_of_any_length_is_found_at_once():
    with pytest.raises(
        UserError, match=r"cannot make 1000000000 inputs with 300000000 targets; the nearest lengths are"
    ):
        SpanCorruption(TokenIds(300, 4)).block_length({"inputs": 10**9, "targets": 3 * 10**8})
