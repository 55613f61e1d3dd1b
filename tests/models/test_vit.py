"""The DINO ViT and the region encoder: positions, sizes, order of tiles."""

import pytest
import torch
from torch import Tensor, nn

from microtome.errors import TileSizeError
from microtome.models.vit import DinoViT, stretch_positions, token_grid
from microtome.models.vit4k import GridViT, RegionEncoder


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_positions_of_the_table_s_own_grid_are_untouched():
    table = torch.randn(1, 197, 8)
    assert torch.equal(stretch_positions(table, (14, 14)), table)


def test_the_class_token_s_position_never_changes():
    table = torch.randn(1, 197, 8)
    assert torch.equal(stretch_positions(table, (16, 20))[:, 0], table[:, 0])


def test_constant_positions_stay_constant():
    table = torch.full((1, 197, 3), 0.7)
    torch.testing.assert_close(stretch_positions(table, (9, 21)), torch.full((1, 1 + 9 * 21, 3), 0.7))


def test_the_tenth_in_the_scale_matters():
    """The trick's scale is (16.1 / 14): a resize to 16 differs by more than rounding."""
    table = torch.randn(1, 197, 4)
    rows = table[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)
    plain = nn.functional.interpolate(rows, size=(16, 16), mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
    assert (stretch_positions(table, (16, 16))[:, 1:] - plain).abs().max() > 1e-3


def test_rows_and_columns_are_not_confused():
    rows = torch.arange(14.0).repeat_interleave(14)  # each token knows its row
    table = torch.cat([torch.zeros(1), rows])[None, :, None]
    stretched = stretch_positions(table, (28, 7))[0, 1:, 0].unflatten(0, (28, 7))
    torch.testing.assert_close(stretched, stretched[:, :1].expand(-1, 7))
    assert (stretched[1:, 0] > stretched[:-1, 0])[2:-2].all()


@pytest.mark.parametrize(("height", "width"), [(30, 32), (32, 47), (1, 16)])
def test_sizes_that_would_lose_a_border_are_refused(height, width):
    with pytest.raises(TileSizeError, match=f"got {width} x {height}"):
        DinoViT(12, depth=1, n_heads=2)(torch.zeros(1, 3, height, width))


def test_last_attention_rows_sum_to_one_and_lie_on_the_grid():
    network = DinoViT(12, depth=2, n_heads=3).eval()
    attention = network.last_attention(torch.randn(2, 3, 32, 48))
    assert attention.shape == (2, 3, 7, 7)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3, 7))
    grid = token_grid(attention, (2, 3))
    assert torch.equal(grid[:, :, 1, 0], attention[:, :, 0, 1 + 3])


def test_the_feature_is_the_class_token_after_the_last_block():
    network = DinoViT(12, depth=3, n_heads=2).eval()
    images = torch.randn(1, 3, 32, 32)
    earlier, last = network.tokens(images, last=2)
    assert torch.equal(network(images), last[:, 0])
    assert not torch.allclose(earlier, last)


def test_one_image_s_vector_does_not_depend_on_the_others():
    network = DinoViT(12, depth=2, n_heads=2).eval()
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(network(images)[1:2], network(images[1:2]))


def test_a_transposed_grid_gives_another_vector():
    network = GridViT(8, dim=12, depth=1, n_heads=2).eval()
    grid = torch.randn(1, 8, 3, 5)
    assert not torch.allclose(network(grid), network(grid.transpose(2, 3)), atol=1e-4)


class Corner(nn.Module):
    """A tile's vector is its top-left pixel."""

    def forward(self, tiles: Tensor) -> Tensor:
        return tiles[:, :, 0, 0]


class Flat(nn.Module):
    """A grid's vector is its values, row by row."""

    def forward(self, grid: Tensor) -> Tensor:
        return grid.flatten(1)


def coordinates(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x, torch.zeros_like(x)]).float()[None]


@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    [(8, 12, 0, 0), (9, 12, 0, 0), (11, 15, 2, 2), (10, 13, 1, 0)],  # a half is rounded to even
)
def test_regions_are_cropped_evenly_and_cut_row_by_row(height, width, top, left):
    encoder = RegionEncoder(Corner(), Flat(), tile_px=4, batch_size=2)
    out = encoder(coordinates(height, width))
    rows, columns = height // 4, width // 4
    expected = [[top + 4 * r, left + 4 * c, 0] for r in range(rows) for c in range(columns)]
    assert out.grid == (rows, columns)
    assert out.cls256[0].tolist() == expected
    assert out.cls4k[0].unflatten(0, (3, rows, columns))[0, :, 0].tolist() == [top + 4 * r for r in range(rows)]
    torch.testing.assert_close(out.mean256[0], torch.tensor(expected, dtype=torch.float32).mean(0))
    assert torch.equal(out.mean256_cls4k, torch.cat([out.mean256, out.cls4k], dim=1))


def test_regions_of_a_batch_are_kept_apart():
    encoder = RegionEncoder(Corner(), Flat(), tile_px=4, batch_size=3)
    regions = torch.randn(3, 3, 8, 8)
    together, alone = encoder(regions), [encoder(region[None]) for region in regions]
    assert torch.equal(together.cls256, torch.cat([x.cls256 for x in alone]))
    assert torch.equal(together.cls4k, torch.cat([x.cls4k for x in alone]))


@pytest.mark.parametrize(("height", "width"), [(3, 8), (8, 3), (0, 8)])
def test_regions_smaller_than_a_tile_are_refused(height, width):
    with pytest.raises(TileSizeError, match="at least 4 x 4"):
        RegionEncoder(Corner(), Flat(), tile_px=4)(torch.zeros(1, 3, height, width))
