"""The contract, run over every encoder of the registry that loads without being given weights."""

import pytest

from microtome.encoders.base import Encoder
from microtome.encoders.registry import list_encoders, load_encoder, read_card
from microtome.testing.encoder_contract import EncoderContract

BUILT_IN = [name for name in list_encoders() if read_card(name).access == "built in"]


class TestRegisteredEncoders(EncoderContract):
    @pytest.fixture(params=BUILT_IN)
    def encoder(self, request) -> Encoder:
        return load_encoder(request.param)


def test_there_is_something_to_test():
    assert "texture" in BUILT_IN
