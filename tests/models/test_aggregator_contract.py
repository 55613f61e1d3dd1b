"""The aggregators' contract over every aggregator of the registry, and over the forms that options make."""

from functools import partial

import pytest

from microtome.models.aggregators.registry import build_aggregator, list_aggregators
from microtome.testing.aggregator_contract import AggregatorContract

SMALL: dict[str, dict[str, object]] = {
    "transmil_nystrom": {"n_landmarks": 4},
    "transmil_original": {"dim": 16, "n_landmarks": 4},
    "transmil_millab": {"dim": 16, "n_landmarks": 4},
    "dsmil_millab": {"dim": 16, "n_queries": 8},
    "hiptmil": {"dim": 24},
}
FORMS = [
    *((name, SMALL.get(name, {})) for name in list_aggregators()),
    ("chowder", {"score_hidden": (), "n_top": 3, "n_bottom": 0}),
    ("meanpool", {"hidden": (8,), "activation": "relu"}),
    ("dsmil", {"pass_values": True, "logits": "bag"}),
    ("dsmil", {"logits": "max"}),
    ("dsmil_original", {"pass_values": True, "logits": "mean", "deep_queries": False}),
    ("transmil", {"dim": 8, "n_heads": 2}),
]


class TestEveryAggregator(AggregatorContract):
    @pytest.fixture(params=FORMS, ids=lambda form: "-".join([form[0], *(f"{k}={v}" for k, v in form[1].items())]))
    def build(self, request):
        name, options = request.param
        return partial(build_aggregator, name, **options)
