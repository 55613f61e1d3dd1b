import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from microtome.errors import NoTilesError, TileError
from microtome.testing.tile_source_contract import TileSourceCase, TileSourceContract
from microtome.tiles.folder import LabelledTiles, TileFolder, tile_name

BOXES = [(0, 0, 64, 64), (64, 0, 64, 64), (128, 0, 64, 64), (0, 64, 64, 64), (1000, 64, 64, 64)]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (len(BOXES), 32, 32, 3), np.uint8)


def write_images(folder, images=IMAGES, boxes=BOXES):
    folder.mkdir(parents=True)
    for image, box in zip(images, boxes, strict=True):
        Image.fromarray(image).save(folder / f"{tile_name(box)}.png")
    return folder.parent


def write_table(root, boxes=BOXES, where="/data/somebody/slide/tiles/", suffix=".png"):
    table = pd.DataFrame(boxes, columns=list("xywh"))
    table["path"] = [f"{where}{tile_name(box)}{suffix}" for box in boxes]
    table.sample(frac=1, random_state=3).to_parquet(root / "metadata.parquet")
    return root


def write_classes(root, names=("tumour", "stroma"), images=IMAGES[:4]):
    for index, image in enumerate(images):
        folder = root / names[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    return root


class TestNamedTiles(TileSourceContract):
    @pytest.fixture
    def case(self, tmp_path):
        root = write_images(tmp_path / "A12" / "tiles")
        changed = IMAGES.copy()
        changed[3, 0, 0] ^= 255
        moved = [*BOXES[:4], (999, 64, 64, 64)]
        return TileSourceCase(
            open=lambda: TileFolder(root),
            expected=IMAGES,
            others={
                "pixels": lambda: TileFolder(write_images(tmp_path / "pixels" / "tiles", changed)),
                "place": lambda: TileFolder(write_images(tmp_path / "place" / "tiles", boxes=moved)),
                "fewer": lambda: TileFolder(write_images(tmp_path / "fewer" / "tiles", IMAGES[:4], BOXES[:4])),
                "mpp": lambda: TileFolder(root, mpp=0.5),
                "modality": lambda: TileFolder(root, modality="fluorescence"),
            },
        )


class TestListedTiles(TileSourceContract):
    @pytest.fixture
    def case(self, tmp_path):
        root = write_table(write_images(tmp_path / "A12" / "tiles"))
        (root / "tiles" / f"{tile_name(BOXES[1])}.png").write_bytes(b"not an image")
        (root / "tiles" / f"{tile_name(BOXES[4])}.png").unlink()
        return TileSourceCase(
            open=lambda: TileFolder(root),
            expected=IMAGES,
            broken=frozenset({1, 4}),
            others={"mpp": lambda: TileFolder(root, mpp=0.5)},
        )


class TestLabelledTiles(TileSourceContract):
    @pytest.fixture
    def case(self, tmp_path):
        root = write_classes(tmp_path / "set")
        (root / "stroma" / "1.png").write_bytes((root / "stroma" / "1.png").read_bytes()[:200])
        return TileSourceCase(
            open=lambda: LabelledTiles(root),
            expected=IMAGES[[1, 3, 0, 2]],
            broken=frozenset({0}),
            others={
                "class name": lambda: LabelledTiles(write_classes(tmp_path / "other", ("tumour", "stromal"))),
                "pixels": lambda: LabelledTiles(write_classes(tmp_path / "pixels", images=IMAGES[1:])),
                "mpp": lambda: LabelledTiles(root, mpp=0.5),
                "modality": lambda: LabelledTiles(root, modality="srh"),
            },
        )

    def test_labels_follow_the_sorted_classes(self, source):
        assert source.classes == ("stroma", "tumour")
        assert source.labels.tolist() == [0, 0, 1, 1]


def test_a_moved_folder_is_the_same_source(tmp_path):
    root = write_table(write_images(tmp_path / "A12" / "tiles"))
    before = TileFolder(root).recipe
    moved = shutil.move(root, tmp_path / "elsewhere" / "A12")
    assert str(TileFolder(moved).recipe) == str(before)
    np.testing.assert_array_equal(TileFolder(moved).read(np.arange(5)).images, IMAGES)


@pytest.mark.parametrize("where", ["C:\\slides\\A12\\tiles\\", "tiles/", ""])
def test_paths_of_any_system_are_found_by_name(tmp_path, where):
    root = write_table(write_images(tmp_path / "A12" / "tiles"), where=where)
    assert TileFolder(root).read(np.arange(5)).readable.all()


def test_a_folder_of_tiles_alone_will_do(tmp_path):
    write_images(tmp_path / "A12")
    (tmp_path / "A12" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "A12" / "thumbnail.jpeg").write_bytes(b"")
    assert len(TileFolder(tmp_path / "A12")) == 5


def test_real_histoprep_folder(shared):
    source = TileFolder(shared / "data" / "tiles" / "histoencoder_slide")
    assert len(source) == 90
    assert source.tile_shape == (224, 224, 3)
    order = np.lexsort((source.boxes[:, 0], source.boxes[:, 1]))
    assert order.tolist() == list(range(90))
    batch = source.read(np.arange(90))
    assert batch.readable.all()
    with Image.open(shared / "data/tiles/histoencoder_slide/tiles/x224_y0_w224_h224.jpeg") as expected:
        np.testing.assert_array_equal(batch.images[1], np.asarray(expected))


def test_real_labelled_tiles(shared):
    source = LabelledTiles(shared / "data" / "tiles" / "nct_crc_A")
    assert source.classes == ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
    assert np.bincount(source.labels).tolist() == [10] * 9
    assert source.read(np.arange(90)).readable.all()


def test_a_name_that_says_no_place_is_refused(tmp_path):
    root = write_images(tmp_path / "A12" / "tiles")
    Image.fromarray(IMAGES[0]).save(root / "tiles" / "spot_3.png")
    with pytest.raises(TileError, match=r"spot_3\.png"):
        TileFolder(root)
    assert len(TileFolder(write_table(root))) == 5  # the table says what is a tile


def test_tables_that_cannot_be_used_are_refused(tmp_path):
    root = write_images(tmp_path / "A12" / "tiles")
    (root / "metadata.parquet").write_bytes(b"nothing")
    with pytest.raises(TileError, match="parquet"):
        TileFolder(root)
    pd.DataFrame({"x": [0], "y": [0]}).to_parquet(root / "metadata.parquet")
    with pytest.raises(TileError, match="w, h, path"):
        TileFolder(root)
    pd.DataFrame({"x": [0], "y": [0], "w": [1], "h": [1], "path": [None]}).to_parquet(root / "metadata.parquet")
    with pytest.raises(TileError, match="row 0"):
        TileFolder(root)


def test_several_sizes_are_refused_by_name(tmp_path):
    root = write_images(tmp_path / "A12" / "tiles", boxes=[*BOXES[:4], (7, 70, 65, 64)])
    with pytest.raises(TileError, match="x7_y70_w65_h64"):
        TileFolder(root)
    images = list(IMAGES[:4])
    images[2] = images[2][:30]
    labelled = write_classes(tmp_path / "set", images=images)
    with pytest.raises(TileError, match=r"2\.png"):
        LabelledTiles(labelled)
    other = write_images(tmp_path / "B" / "tiles", images=[*IMAGES[:4], IMAGES[4][:30]])
    with pytest.raises(TileError, match="x1000_y64"):
        TileFolder(other).read(np.arange(5))


def test_pixels_of_any_8_bit_kind_become_rgb(tmp_path):
    folder = tmp_path / "A12"
    folder.mkdir()
    grey = IMAGES[0, :, :, 0]
    rgba = np.dstack([IMAGES[1], np.zeros((32, 32), np.uint8)])
    turned = Image.fromarray(IMAGES[2])
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(grey).save(folder / "x0_y0_w32_h32.png")
    Image.fromarray(rgba).save(folder / "x1_y0_w32_h32.png")
    turned.save(folder / "x2_y0_w32_h32.png", exif=exif)
    images = TileFolder(folder).read(np.arange(3)).images
    np.testing.assert_array_equal(images[0], np.repeat(grey[:, :, None], 3, axis=2))
    assert (images[1] == 255).all()
    np.testing.assert_array_equal(images[2], IMAGES[2][::-1, ::-1])


def test_16_bit_images_are_refused(tmp_path):
    folder = tmp_path / "A12"
    folder.mkdir()
    Image.fromarray(np.full((32, 32), 4000, np.uint16)).save(folder / "x0_y0_w32_h32.png")
    with pytest.raises(TileError, match="not 8-bit"):
        TileFolder(folder).read(np.arange(1))


def test_folders_without_tiles_are_refused(tmp_path):
    for kind in (TileFolder, LabelledTiles):
        with pytest.raises(NoTilesError, match="is not a folder"):
            kind(tmp_path / "absent")
        with pytest.raises(NoTilesError, match="holds no"):
            kind(tmp_path)
    root = write_classes(tmp_path / "set")
    (root / "empty").mkdir()
    with pytest.raises(TileError, match="empty"):
        LabelledTiles(root)
    (root / "empty").rmdir()
    Image.fromarray(IMAGES[0]).save(root / "loose.png")
    with pytest.raises(TileError, match=r"loose\.png"):
        LabelledTiles(root)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "x0_y0_w1_h1.png").write_bytes(b"")
    with pytest.raises(TileError, match="None of 1 tiles"):
        TileFolder(broken)
