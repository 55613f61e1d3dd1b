"""Fourier positions of patches against those of the original."""

from pathlib import Path

import numpy as np
import pytest
import torch

from microtome.models.fastglioma import FourierPositions
from microtome.tiles.srh import grid_of, patch_place
from tests.conftest import golden_cases, require_case
from tests.encoders.golden import fill, read_case


@pytest.mark.shared
@pytest.mark.parametrize("case", golden_cases("fastglioma_losses"), ids=lambda p: p.name)
def test_golden_positions(case):
    meta, data = read_case(require_case(case))
    prefix = meta["weights"]["checkpoint"]["key_prefix"]
    positions = FourierPositions().eval()
    positions.load_state_dict({key.removeprefix(prefix): value for key, value in fill(case).items()})
    raw_atol = 2e-4 if any("2e-4" in note for note in meta["notes"]) else meta["tolerance"]["encodings"]
    named = np.array([grid_of(*patch_place(Path(name).name)) for name in meta["inputs"]["ffpeg_names"]])
    for name, coordinates, atol in [
        ("names", named, meta["tolerance"]["encodings"]),
        ("raw", data["in_ffpeg_raw_coords"], raw_atol),
    ]:
        with torch.no_grad():
            found = positions(torch.from_numpy(coordinates)[None])
        np.testing.assert_allclose(found, data[f"out_ffpeg_{name}_pe"], atol=atol, rtol=0)
