"""What timings say of who waited for whom."""

import pytest

from microtome.features.outcomes import Timings


@pytest.mark.parametrize(
    ("seconds", "encode_s", "threads", "share"),
    [(10.0, 9.0, 1, 0.1), (10.0, 9.0, 2, 0.55), (10.0, 0.0, 1, 1.0), (10.0, 10.01, 1, 0.0), (0.0, 0.0, 1, 0.0)],
)
def test_share_in_which_the_encoder_waits(seconds, encode_s, threads, share):
    timings = Timings(seconds=seconds, encode_s=encode_s, encoder_threads=threads)
    assert timings.encoder_wait_share == pytest.approx(share)


def test_rate_of_nothing_is_zero():
    assert Timings().tiles_per_s == 0.0
    assert Timings(n_tiles=30, seconds=2.0).tiles_per_s == 15.0
