import h5py
import numpy as np
import pytest

from microtome.errors import NoTilesError, TileError
from microtome.testing.tile_source_contract import TileSourceCase, TileSourceContract
from microtome.tiles.patch_h5 import PatchH5

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
COORDS = np.array([(5, 7), (21, 7), (37, 7), (5, 23), (21, 23), (100, 200)], np.int32)


def write(path, images=IMAGES, coords=COORDS, downsample=(4.0, 4.0), **options):
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("imgs", data=images, chunks=(1, *images.shape[1:]), **options)
        file.create_dataset("coords", data=coords)
        stored.attrs["patch_level"] = 1
        stored.attrs["wsi_name"] = "A12"
        if downsample is not None:
            stored.attrs["downsample"] = downsample
    return path


def damage(path, row):
    """Make one chunk undecodable."""
    with h5py.File(path, "r") as file:
        chunk = file["imgs"].id.get_chunk_info_by_coord((row, 0, 0, 0))
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * chunk.size)
    return path


def others(folder):
    changed = IMAGES.copy()
    changed[2, 0, 0, 0] ^= 1
    path = write(folder / "A12.h5")
    return {
        "pixels": lambda: PatchH5(write(folder / "pixels.h5", changed)),
        "coords": lambda: PatchH5(write(folder / "coords.h5", coords=COORDS + 1)),
        "order": lambda: PatchH5(write(folder / "order.h5", IMAGES[::-1], COORDS[::-1])),
        "downsample": lambda: PatchH5(write(folder / "downsample.h5", downsample=(2.0, 2.0))),
        "mpp": lambda: PatchH5(path, mpp=0.5),
        "modality": lambda: PatchH5(path, modality="fluorescence"),
    }


class TestPatchH5(TileSourceContract):
    @pytest.fixture
    def case(self, tmp_path):
        path = write(tmp_path / "A12.h5")
        return TileSourceCase(open=lambda: PatchH5(path), expected=IMAGES, others=others(tmp_path))


class TestDamagedPatchH5(TileSourceContract):
    @pytest.fixture
    def case(self, tmp_path):
        path = damage(write(tmp_path / "damaged.h5", compression="gzip"), 2)
        return TileSourceCase(
            open=lambda: PatchH5(path), expected=IMAGES, broken=frozenset({2}), others=others(tmp_path)
        )


class TestTwoChannels16BitPatchH5(TileSourceContract):
    @pytest.fixture
    def case(self, tmp_path):
        images = np.random.default_rng(1).integers(0, 65536, (6, 16, 16, 2), np.uint16)
        path = write(tmp_path / "srh.h5", images)
        return TileSourceCase(
            open=lambda: PatchH5(path, modality="srh"),
            expected=images,
            others={"modality": lambda: PatchH5(path, modality="multichannel")},
        )


def test_coordinates_come_to_level_0(tmp_path):
    source = PatchH5(write(tmp_path / "A12.h5"))
    np.testing.assert_array_equal(source.boxes[:, :2], COORDS * 4)
    assert (source.boxes[:, 2:] == 64).all()
    assert source.slide_id == "A12"


def test_a_missing_downsample_must_be_given(tmp_path):
    path = write(tmp_path / "A12.h5", downsample=None)
    with pytest.raises(TileError, match="Pass downsample="):
        PatchH5(path)
    assert PatchH5(path, downsample=2.0).boxes[0].tolist() == [10, 14, 32, 32]
    with pytest.raises(TileError, match=r"4\.0"):
        PatchH5(write(tmp_path / "B.h5"), downsample=2.0)


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(TileError, match=r"absent\.h5"):
        PatchH5(tmp_path / "absent.h5")
    whole = write(tmp_path / "A12.h5").read_bytes()
    (tmp_path / "short.h5").write_bytes(whole[:3000])
    with pytest.raises(TileError, match=r"short\.h5"):
        PatchH5(tmp_path / "short.h5")
    with h5py.File(tmp_path / "coords.h5", "w") as file:
        file["coords"] = COORDS
    with pytest.raises(TileError, match="need imgs and coords"):
        PatchH5(tmp_path / "coords.h5")
    with pytest.raises(TileError, match="shape"):
        PatchH5(write(tmp_path / "uneven.h5", coords=COORDS[:3]))
    with pytest.raises(NoTilesError):
        PatchH5(_empty(tmp_path / "none.h5"))
    with pytest.raises(TileError, match="modality="):
        PatchH5(write(tmp_path / "deep.h5", IMAGES.astype(np.uint16)))


def _empty(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("imgs", (0, 16, 16, 3), np.uint8)
        file.create_dataset("coords", (0, 2), np.int32)
    return path
