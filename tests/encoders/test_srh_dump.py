"""Saved embeddings as the original's training passes them on."""

import numpy as np
import pytest
import torch

from microtome.encoders.srh_dump import SrhDump, dump_path, read_dump, write_dump
from microtome.errors import TileError, WeightsError

GRID = np.array([[2, 0], [0, 5], [0, 1]])
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_a_dump_is_sorted_by_place(tmp_path):
    path = dump_path(tmp_path, "NIO_1", "2", "aug3")
    assert path == tmp_path / "studies" / "NIO_1" / "2" / "NIO_1.2-aug3.pt"
    write_dump(path, SrhDump(VECTORS, GRID, ("a", "b", "c"), "1"))
    content = torch.load(path, weights_only=True)
    assert content["coords"] == [(0, 1), (0, 5), (2, 0)]
    assert content["path"] == ["c", "b", "a"]
    assert content["labels"] == ["1"] * 3
    found = read_dump(path)
    np.testing.assert_array_equal(found.embeddings, VECTORS[[2, 1, 0]])
    assert found.label == "1"


@pytest.mark.parametrize("coords", [[(2, 0), (0, 5), (0, 1)], torch.tensor([[2, 0], [0, 5], [0, 1]])])
@pytest.mark.parametrize("labels", [torch.tensor([3, 3, 3]), ["3", "3", "3"], "3", 3])
def test_dumps_of_the_original_are_read_whatever_they_hold_labels_in(tmp_path, coords, labels):
    torch.save(
        {"path": ["x"] * 3, "labels": labels, "embeddings": torch.ones(3, 4), "coords": coords}, tmp_path / "a.pt"
    )
    found = read_dump(tmp_path / "a.pt")
    np.testing.assert_array_equal(found.grid, GRID)
    assert found.label == "3"


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"embeddings": torch.full((3, 4), torch.nan)}, WeightsError, "NaN"),
        ({"embeddings": torch.ones(2, 4)}, WeightsError, "2 embeddings at 3 places"),
        ({"embeddings": torch.ones(3, 4, dtype=torch.int64)}, WeightsError, "floats"),
        ({"embeddings": None}, WeightsError, "floats"),
        ({"coords": [(0, 0), (0, 1), (0, 0)]}, TileError, "one place"),
        ({"coords": [0, 1, 2]}, WeightsError, "pairs"),
        ({"coords": [], "embeddings": torch.ones(0, 4)}, TileError, "empty slide"),
    ],
)
def test_damaged_dumps_are_refused(tmp_path, changes, error, said):
    content = {"embeddings": torch.ones(3, 4), "coords": [(2, 0), (0, 5), (0, 1)], **changes}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(error, match=said):
        read_dump(tmp_path / "a.pt")


def test_a_checkpoint_is_no_dump(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="no dump"):
        read_dump(tmp_path / "a.pt")
