"""How many tiles a batch has where nobody says it."""

from math import prod

import pytest

from microtome.encoders.base import USUAL_BATCH
from microtome.features.plan import ExtractOptions, batch_that_suits, plan_bag
from tests.features.fakes import ArraySource, Means

TILE_BYTES = prod(ArraySource().tile_shape) * ArraySource().dtype.itemsize


class Eager(Means):
    """Wants large batches."""

    def batch_for(self, tile_shape):
        assert tile_shape == ArraySource().tile_shape
        return 500


def planned(encoder, **options):
    return plan_bag("A", ArraySource(), encoder, ExtractOptions(**options))[0].batch_size


def test_what_suits_the_encoder_and_what_is_said_otherwise():
    assert planned(Means()) == USUAL_BATCH
    assert planned(Eager()) == 500
    assert planned(Eager(), batch_size=3) == 3


@pytest.mark.parametrize(("tiles", "batch"), [(4 * 500, 500), (4 * 500 - 1, 499), (40, 10), (4, 1), (1, 1)])
def test_four_batches_fit_into_the_memory_but_one_tile_is_the_least(tiles, batch):
    assert batch_that_suits(ArraySource(), Eager(), tiles * TILE_BYTES) == batch
