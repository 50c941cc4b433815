"""The stage in force at a step is the last that has begun, and the stages' steps add up to the run's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlm.errors import UserError
from mixlm.objectives.causal import Causal
from mixlm.objectives.curriculum import Blocks, Curriculum, Stage
from mixlm.objectives.spactor import SpacTor
from mixlm.objectives.span_corruption import SpanCorruption
from mixlm.tokens import TokenIds

TOKENS = TokenIds(vocab_size=64, mask=3, sentinels=8)
OBJECTIVES = (SpacTor(SpanCorruption(TOKENS)), SpanCorruption(TOKENS), Causal(TOKENS))

# (start, which objective) of the stages behind the first.
later = st.lists(st.tuples(st.integers(0, 40), st.integers(0, len(OBJECTIVES) - 1)), max_size=5).map(sorted)


def staged(later: list[tuple[int, int]]) -> tuple[Stage, ...]:
    return tuple(Stage(start, OBJECTIVES[which]) for start, which in [(0, 0), *later])


def two_stages(tau: int) -> Curriculum:
    return Curriculum((Stage(0, OBJECTIVES[0]), Stage(tau, OBJECTIVES[1])))


@settings(deadline=None, max_examples=50)
@given(later, st.integers(0, 60))
def test_the_last_stage_that_has_begun_is_in_force(later, step):
    stages = staged(later)
    in_force = None
    for stage in stages:
        if stage.start <= step:
            in_force = stage
    assert Curriculum(stages).at(step) is in_force


@settings(deadline=None, max_examples=50)
@given(later, st.integers(0, 20))
def test_the_spans_are_what_a_walk_over_all_steps_meets(later, more):
    stages = staged(later)
    curriculum, train_steps = Curriculum(stages), stages[-1].start + more
    spans = curriculum.spans(train_steps)
    assert sum(steps for _, steps in spans) == train_steps
    met: list[Stage] = []
    for step in range(train_steps):
        current = curriculum.at(step)
        if not met or met[-1] is not current:
            met.append(current)
        assert spans[len(met) - 1][0] is current
    assert [stage for stage, _ in spans] == met


def test_tau_splits_the_run():
    assert [(stage.objective.name, steps) for stage, steps in two_stages(30).spans(100)] == [
        ("spactor", 30),
        ("span_corruption", 70),
    ]
    assert two_stages(30).at(29).objective.name == "spactor"
    assert two_stages(30).at(30).objective.name == "span_corruption"


def test_tau_zero_is_the_second_stage_alone():
    curriculum = two_stages(0)
    assert [(stage.objective.name, steps) for stage, steps in curriculum.spans(100)] == [("span_corruption", 100)]
    assert curriculum.at(0).objective.name == "span_corruption"


def test_tau_at_the_last_step_is_the_first_stage_alone():
    curriculum = two_stages(100)
    assert [(stage.objective.name, steps) for stage, steps in curriculum.spans(100)] == [("spactor", 100)]
    assert curriculum.at(99).objective.name == "spactor"


def test_tau_past_the_last_step_is_an_error():
    with pytest.raises(UserError, match=r"'span_corruption' starts at step 101 .*past the last of 100 steps"):
        two_stages(101).spans(100)


@pytest.mark.parametrize("starts", [(), (1,), (3, 5)])
def test_a_curriculum_begins_at_step_zero(starts):
    with pytest.raises(UserError, match="must start at step 0"):
        Curriculum(tuple(Stage(start, OBJECTIVES[0]) for start in starts))


def test_a_curriculum_ascends():
    with pytest.raises(UserError, match=r"ascending order, got starts \[0, 5, 4\]"):
        Curriculum(tuple(Stage(start, OBJECTIVES[0]) for start in (0, 5, 4)))


def test_objectives_are_distinct_by_value_and_in_order():
    spans, again = SpanCorruption(TOKENS), SpanCorruption(TOKENS)
    found = Curriculum((Stage(0, spans), Stage(3, OBJECTIVES[2]), Stage(5, again))).distinct
    assert found == (spans, OBJECTIVES[2])


def test_a_curriculum_of_a_list_is_still_hashable():
    # gin writes lists where a hash needs tuples; the annotation is for those who write Python.
    with_list = Curriculum.__new__(Curriculum)
    object.__setattr__(with_list, "stages", [Stage(0, OBJECTIVES[0])])
    with_list.__post_init__()
    assert hash(with_list) == hash(Curriculum((Stage(0, OBJECTIVES[0]),)))


CLM, MLM = OBJECTIVES[0], OBJECTIVES[2]


@given(st.floats(0.3, 1000), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_blocks_of_epochs_take_as_many_steps_as_their_epochs(epoch_steps, epochs):
    names = [("clm", "mlm")[index % 2] for index in range(len(epochs))]
    blocks = Blocks(", ".join(f"{n} {name}" for n, name in zip(epochs, names)), {"clm": CLM, "mlm": MLM})
    stages = blocks.curriculum(epoch_steps).stages
    assert blocks.epochs == sum(epochs)
    assert [stage.objective for stage in stages] == [{"clm": CLM, "mlm": MLM}[name] for name in names]
    for index, stage in enumerate(stages):
        assert abs(stage.start - sum(epochs[:index]) * epoch_steps) <= 0.5


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ("4 clm, 16 mml", "names 'mml', and the objectives are .* Did you mean 'mlm'?"),
        ("4 clm, mlm", "'mlm' is no number of epochs and the name of an objective, such as '4 clm'"),
        ("", "'' is no number of epochs"),
        ("0 clm", "'0 clm' is no number of epochs"),
    ],
)
def test_a_schedule_that_cannot_be_read_is_named(schedule, sentence):
    with pytest.raises(UserError, match=sentence):
        Blocks(schedule, {"clm": CLM, "mlm": MLM})
