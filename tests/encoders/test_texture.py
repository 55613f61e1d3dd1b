import subprocess
import sys

import numpy as np
import pytest
from benchmarks.texture_nct import feature_sets, read_tiles, repeat_scores

from microtome.encoders import texture_measures
from microtome.encoders.registry import load_encoder, read_card
from microtome.encoders.texture import MIN_TILE_PX, TEXTURE_FEATURES, features_table
from microtome.errors import EncoderOutputError, ModalityError, TileSizeError


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("texture")


def test_every_feature_has_a_name_of_its_own_and_a_meaning():
    names = [name for name, _ in TEXTURE_FEATURES]
    assert len(set(names)) == len(names) == read_card("texture").dim
    assert all(len(meaning) > 20 for _, meaning in TEXTURE_FEATURES)
    rows = features_table().splitlines()[2:]
    assert len(rows) == len(names)
    assert all(row.count(" | ") == 2 for row in rows)


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("side", [32, 33, 224])
def test_flat_tiles_are_finite(encoder, value, side):
    features = encoder.encode(np.full((2, side, side, 3), value, dtype=np.uint8))
    assert np.isfinite(features).all()


def test_white_is_glass_and_black_is_not(encoder):
    names = [name for name, _ in TEXTURE_FEATURES]
    white, black = encoder.encode(np.stack([np.full((64, 64, 3), v, dtype=np.uint8) for v in (255, 0)]))
    assert white[names.index("white_share")] == 1
    assert black[names.index("white_share")] == 0
    assert black[names.index("dark_share")] == pytest.approx(np.log1p(100))
    assert white[names.index("nuclei_density")] == black[names.index("nuclei_density")] == 0


@pytest.mark.parametrize("shape", [(40, 90), (32, 32), (301, 57)])
def test_any_size_from_32_px_on(encoder, shape):
    tiles = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    assert np.isfinite(encoder.encode(tiles)).all()


@pytest.mark.parametrize("shape", [(224, 224), (181, 263)])
def test_a_tile_does_not_depend_on_the_chunk_it_is_measured_in(encoder, shape):
    rng = np.random.default_rng(2)
    coarse = rng.uniform(80, 255, (19, shape[0] // 9 + 1, shape[1] // 9 + 1, 3)).repeat(9, axis=1).repeat(9, axis=2)
    tiles = (coarse[:, : shape[0], : shape[1]] * rng.uniform(0.9, 1, (19, *shape, 1))).astype(np.uint8)
    together = encoder.encode(tiles)  # 16 at a time, or 17
    np.testing.assert_array_equal(np.concatenate([encoder.encode(tile[None]) for tile in tiles]), together)
    np.testing.assert_array_equal(encoder.encode(tiles[::-1])[::-1], together)


@pytest.mark.parametrize("shape", [(31, 64), (64, 31), (0, 0)])
def test_smaller_tiles_are_refused(encoder, shape):
    with pytest.raises(TileSizeError, match=f"{shape[1]}×{shape[0]}.*--tile-px {MIN_TILE_PX}"):
        encoder.encode(np.zeros((1, *shape, 3), dtype=np.uint8))


def test_a_single_tile_is_told_of_the_batch_axis(encoder):
    with pytest.raises(ModalityError, match=r"images\[None\]"):
        encoder.encode(np.zeros((64, 64, 3), dtype=np.uint8))


def test_what_is_not_finite_is_never_handed_out(encoder, monkeypatch):
    values = np.zeros((2, len(TEXTURE_FEATURES)))
    values[1, 3] = np.nan
    monkeypatch.setattr(texture_measures, "measure_tiles", lambda _: values)
    with pytest.raises(EncoderOutputError, match=TEXTURE_FEATURES[3][0]):
        encoder.encode(np.zeros((2, 64, 64, 3), dtype=np.uint8))


def test_opencvs_own_threads_do_not_matter(encoder):
    import cv2

    tiles = np.random.default_rng(1).integers(0, 256, (2, 300, 300, 3), dtype=np.uint8)
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            results.append(encoder.encode(tiles))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(*results)


def test_the_vector_does_not_depend_on_where_in_memory_the_tile_lies(encoder):
    """Vector code rounds otherwise at the ends of its registers, unless every step rounds correctly."""
    tiles = np.random.default_rng(2).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    first = encoder.encode(tiles)
    for offset in range(1, 40):
        memory = np.empty(tiles.nbytes + offset, np.uint8)
        moved = memory[offset:].reshape(tiles.shape)
        moved[...] = tiles
        np.testing.assert_array_equal(encoder.encode(moved), first)
    np.testing.assert_array_equal(np.concatenate([encoder.encode(tile[None]) for tile in tiles]), first)


def test_the_vector_is_that_of_revision_3(encoder):
    """If this fails on purpose, raise the card's revision: features of two revisions must not meet in one folder."""
    assert encoder.card.revision == "3"
    y, x = np.mgrid[:96, :96]
    tile = np.stack([150 + 60 * np.sin(x / 5), 90 + 0.9 * y, 140 + 50 * np.cos((x + y) / 9)], axis=-1).astype(np.uint8)
    vector = encoder.encode(tile[None])[0].astype(np.float64)
    sums = [vector.sum(), np.abs(vector).sum(), (vector * np.cos(np.arange(len(vector)))).sum()]
    np.testing.assert_allclose(sums, [49.6528, 80.8992, -10.5092], rtol=2e-3)


@pytest.mark.shared
def test_tells_tissue_kinds_apart_ten_points_better_than_colour_histograms(shared):
    images, labels = read_tiles(shared / "data" / "tiles" / "nct_crc_A")
    assert len(images) == 90
    scores = {name: repeat_scores(x, labels, repeats=5).mean() for name, x in feature_sets(images).items()}
    texture = scores.pop("texture")
    assert texture >= max(scores.values()) + 0.10


def test_a_texture_run_never_imports_torch_timm_or_umap():
    code = (
        "import sys, numpy as np\n"
        "from microtome.encoders.registry import list_encoders, load_encoder, read_card, cards_table\n"
        "cards_table(); read_card('texture')\n"
        "listed = set(sys.modules)\n"
        "load_encoder('texture').encode(np.zeros((2, 64, 64, 3), np.uint8))\n"
        "heavy = {'torch', 'torchvision', 'timm', 'umap', 'numba', 'sklearn', 'skimage', 'pandas', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert not {'cv2', 'scipy'} & listed\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
