"""Keys and streams: the numbers that runs were trained with, and no two streams alike."""

from functools import partial

import jax
import numpy as np
import pytest

from mixlm.rng import (
    RANK_STREAM,
    START_STREAM,
    dropout_key,
    fold_rows,
    init_key,
    microbatch_key,
    network_key,
    place_keys,
    random_row_order,
    row_keys,
    sample_keys,
    step_key,
    stratified_levels,
    subkeys,
)

# By jax 0.10.2 and mixlm 0.4.3. Another number here is another run everywhere: no trained run could be repeated.
ROWS = [[2785874591, 2637538571], [4073741833, 2748900490], [1191937433, 2376278780], [2494649705, 475266033]]
FIRST = [[2574562899, 4155275291], [2163567284, 2573891739], [148905542, 4208412841], [140856048, 3113529582]]
SECOND = [[2401778688, 395701422], [1840410444, 1479548952], [1106138680, 1104871893], [3367839798, 1322683521]]
SIXTH = [[3010375366, 3788397350], [2146747838, 3078786624], [393222732, 3099956386], [849394881, 3713196412]]


def data(keys):
    return np.asarray(jax.random.key_data(keys)).tolist()


@pytest.mark.parametrize(
    ("found", "golden"),
    [
        (lambda: row_keys(7, 3, 4), ROWS),
        (lambda: subkeys(row_keys(7, 3, 4), 2)[0], FIRST),
        (lambda: subkeys(row_keys(7, 3, 4), 2)[1], SECOND),
        (lambda: fold_rows(row_keys(7, 3, 4), 1), SECOND),
        (lambda: fold_rows(row_keys(7, 3, 4), 5), SIXTH),
        (lambda: sample_keys(row_keys(7, 3, 2), 2), [FIRST[0], SECOND[0], FIRST[1], SECOND[1]]),
        (lambda: dropout_key(7, 3, 4), [623043890, 3579507023]),
        (lambda: microbatch_key(dropout_key(7, 3, 4), 1), [943131877, 2782804216]),
        (lambda: network_key(microbatch_key(dropout_key(7, 3, 4), 1), 2), [255374596, 3842209282]),
        (lambda: init_key(7, 2), [966301609, 1948237315]),
        (lambda: place_keys(7, 3, 1, 3), [FIRST[1], SECOND[1], [2489875016, 2562086461]]),
    ],
)
def test_keys_are_those_of_earlier_versions(found, golden):
    assert data(found()) == golden


def test_rows_are_ordered_as_in_earlier_versions():
    assert np.asarray(random_row_order(row_keys(7, 3, 8))).tolist() == [3, 7, 4, 0, 2, 6, 5, 1]


def test_noise_levels_are_those_of_earlier_versions():
    levels = np.asarray(stratified_levels(row_keys(7, 3, 4))) * 2**24
    assert levels.tolist() == [13628143, 811490, 7219816, 3259253]


def leaves(seed, step, rows=4, splits=8, microbatches=2, networks=3):
    """Every key that a training step draws from."""
    keys = row_keys(seed, step, rows)
    for number in (*range(splits), RANK_STREAM, START_STREAM):
        yield from data(fold_rows(keys, number))
    for index in range(microbatches):
        dropout = microbatch_key(dropout_key(seed, step, rows), index)
        yield from (data(network_key(dropout, network)) for network in range(networks))


def test_no_two_streams_collide():
    inner = [data(part) for seed in (0, 1) for part in (step_key(seed, 0), dropout_key(seed, 0, 4))]
    inner += [data(init_key(seed, index)) for seed in (0, 1) for index in (1, 2, 3)]
    inner += [key for seed in (0, 1) for key in data(row_keys(seed, 0, 4))]
    found = [tuple(key) for seed in (0, 1) for step in (0, 1, 2) for key in leaves(seed, step)]
    every = [*found, *map(tuple, inner)]
    assert len(set(every)) == len(every)


def test_a_rows_key_does_not_depend_on_the_size_of_the_batch():
    assert data(row_keys(7, 3, 2)) == ROWS[:2]
    assert data(jax.jit(partial(row_keys, rows=4))(7, 3)) == ROWS
