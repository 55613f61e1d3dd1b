"""A model that scores without a network over pixels, so that tests of everything around it are quick."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from microtome.encoders.base import Encoder
from microtome.encoders.filled import fill_network
from microtome.encoders.registry import read_card
from microtome.encoders.srh_model import SrhModel
from microtome.models.fastglioma import SrhScorer


class StubTokenizer(Encoder):
    """Vectors from a patch's own pixels: how its neighbours differ."""

    def __init__(self) -> None:
        self.card = read_card("fastglioma-highres-tokenizer")
        self.device, self.precision = "cpu", "fp32"
        self.takes = ("uint16", 2)
        self.n_encoded = 0

    def encode(self, images):
        assert images.dtype == np.uint16
        assert images.shape[1:] == (300, 300, 2)
        self.n_encoded += len(images)
        edges = np.abs(np.diff(images[..., 0].astype(np.float32), axis=2)).mean(axis=(1, 2))
        texture = np.stack([np.cos(edges / (20 + k)) for k in range(512)], axis=1)
        return texture.astype(np.float32)


def stub_model(**changes: Any) -> SrhModel:
    torch.set_num_threads(1)
    scorer = SrhScorer()
    fill_network(scorer, (3, 300, 300))
    model = SrhModel("stub", "highres", StubTokenizer(), scorer.eval(), "0" * 64, "file")
    return replace(model, **changes)
