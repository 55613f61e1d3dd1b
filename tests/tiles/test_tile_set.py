"""Sets of labelled tiles: order, names, labels, splits, sizes."""

import csv

import numpy as np
import pytest
from PIL import Image

from microtome.errors import NoTilesError, TileError
from microtome.storage import recipe_text
from microtome.testing.tile_source_contract import TileSourceCase, TileSourceContract
from microtome.tiles.tile_set import NCT_CLASSES, TileSet

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
PATCHES = [("4", 0, 3328, 21792, 1, 0), ("17", 2, 10, 20, 0, 1), ("99", 4, 5, 6, 1, 2)]  # patient node x y tumor center


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def imagefolder(root, images=IMAGES):
    for name, image in zip(("b/10.png", "b/9.png", "a/x/1.png", "a/2.png"), images, strict=False):
        save(root / name, image)
    return root


def nct(root, classes=NCT_CLASSES, images=IMAGES):
    for index, name in enumerate(sorted(classes)):
        save(root / name / f"{name}-{root.name[:3]}{index}.tif", images[index % len(images)])
    return root


def wilds(root, rows=PATCHES):
    root.mkdir(exist_ok=True)
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("", "patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split"))
        for index, (patient, node, x, y, tumor, center) in enumerate(rows):
            writer.writerow((index, patient.zfill(3), node, x, y, tumor, 0, center, 0))
            folder = f"patient_{patient.zfill(3)}_node_{node}"
            save(root / "patches" / folder / f"patch_{folder}_x_{x}_y_{y}.png", IMAGES[index])
    return root


class TestImageFolder(TileSourceContract):
    @pytest.fixture
    def case(self, tmp_path):
        root = imagefolder(tmp_path / "set")
        (root / "a" / "2.png").write_bytes(b"torn")
        return TileSourceCase(
            open=lambda: TileSet(root),
            expected=IMAGES[[3, 2, 0, 1]],
            broken=frozenset({0}),
            others={
                "pixels": lambda: TileSet(imagefolder(tmp_path / "pixels", IMAGES[::-1])),
                "mpp": lambda: TileSet(root, mpp=0.5),
                "who said it": lambda: TileSet(root, mpp_source="card"),
                "resized": lambda: TileSet(root, tile_px=16),
            },
        )


def test_ids_of_an_image_folder_are_its_paths(tmp_path):
    source = TileSet(imagefolder(tmp_path / "set"))
    assert source.layout == "imagefolder"
    assert source.ids.tolist() == ["a/2.png", "a/x/1.png", "b/10.png", "b/9.png"]
    columns, rows = source.table
    assert columns == ("id", "path", "label")
    assert [row[2] for row in rows] == ["a", "a", "b", "b"]
    assert not source.ids.flags.writeable


def test_images_alone_have_no_label(tmp_path):
    for name in ("b.png", "a.png"):
        save(tmp_path / "set" / name, IMAGES[0])
    source = TileSet(tmp_path / "set")
    assert (source.table[0], source.ids.tolist()) == (("id", "path"), ["a.png", "b.png"])


def test_nct_crc_alone_and_with_its_validation_set(tmp_path):
    alone = TileSet(nct(tmp_path / "NCT-CRC-HE-100K-NONORM"))
    assert alone.layout == "nct-crc"
    assert alone.ids[0] == "ADI-NCT0"
    assert {row[2:] for row in alone.table[1]} == {(name, "train") for name in NCT_CLASSES}
    nct(tmp_path / "CRC-VAL-HE-7K")
    both = TileSet(tmp_path)
    assert (both.layout, len(both)) == ("nct-crc", 18)
    assert [row[3] for row in both.table[1]] == ["valid"] * 9 + ["train"] * 9
    assert both.recipe["tile_ids"] is both.ids


def test_a_copy_without_background_is_still_nct_crc(tmp_path):
    assert TileSet(nct(tmp_path / "set", NCT_CLASSES - {"BACK"})).layout == "nct-crc"
    assert TileSet(nct(tmp_path / "two", {"NORM", "TUM"})).layout == "imagefolder"


def test_camelyon17_wilds_takes_its_facts_from_the_table(tmp_path):
    source = TileSet(wilds(tmp_path))
    assert source.layout == "camelyon17-wilds"
    assert source.ids[0] == "patch_patient_004_node_0_x_3328_y_21792"
    columns, rows = source.table
    assert columns == ("id", "path", "label", "split", "center", "patient", "node", "x", "y")
    assert [row[2:7] for row in rows] == [
        ("1", "train", "0", "004", "0"),
        ("0", "valid", "1", "017", "2"),
        ("1", "test", "2", "099", "4"),
    ]
    np.testing.assert_array_equal(source.read(np.arange(3)).images, IMAGES[:3])


def test_a_patch_that_is_listed_and_absent_is_unreadable(tmp_path):
    next(wilds(tmp_path).rglob("patch_patient_017*")).unlink()
    assert TileSet(tmp_path).read(np.arange(3)).readable.tolist() == [True, False, True]


def test_resizing_is_pillow_s_bicubic_and_moves_the_resolution(tmp_path):
    source = TileSet(imagefolder(tmp_path / "set"), tile_px=224, mpp=0.5)
    assert source.tile_shape == (224, 224, 3)
    assert source.mpp == pytest.approx(0.5 * 32 / 224)
    expected = Image.fromarray(IMAGES[3]).resize((224, 224))  # Pillow's default filter, as the original calls it
    np.testing.assert_array_equal(source.read(np.array([0])).images[0], np.asarray(expected))
    same = TileSet(tmp_path / "set", tile_px=32)  # their own size
    assert recipe_text(same.recipe) == recipe_text(TileSet(tmp_path / "set").recipe)


def test_sets_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(NoTilesError, match="not a folder"):
        TileSet(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoTilesError, match="holds no tile"):
        TileSet(tmp_path / "empty")
    root = imagefolder(tmp_path / "set")
    save(root / "loose.png", IMAGES[0])
    with pytest.raises(TileError, match=r"loose\.png.*no class"):
        TileSet(root)
    (root / "loose.png").unlink()
    with pytest.raises(TileError, match="is no class of NCT-CRC"):
        TileSet(root, "nct-crc")
    save(root / "b" / "odd.png", IMAGES[0][:30])
    with pytest.raises(TileError, match=r"odd\.png' is 32 × 30 px"):
        TileSet(root)
    flat = tmp_path / "flat"
    save(flat / "a" / "1.png", IMAGES[0][:20])
    with pytest.raises(TileError, match="distorted"):
        TileSet(flat, tile_px=224)
    (tmp_path / "slides" / "A").mkdir(parents=True)
    (tmp_path / "slides" / "A" / "metadata.parquet").write_bytes(b"")
    with pytest.raises(TileError, match="histoprep"):
        TileSet(tmp_path / "slides")


def test_two_tiles_of_one_name_are_refused(tmp_path):
    root = nct(tmp_path / "set")
    save(root / "TUM" / "ADI-set0.png", IMAGES[0])
    with pytest.raises(TileError, match="two tiles called 'ADI-set0'"):
        TileSet(root)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("patient,node\n1,2\n", "lacks the column"),
        ("patient,node,x_coord,y_coord,tumor,center\n1,2,x,4,0,0\n", "line 2"),
        ("patient,node,x_coord,y_coord,tumor,center\n1,2,3,4,0,7\n", "centre '7'"),
        ("patient,node,x_coord,y_coord,tumor,center\n1,2,3,4,0,0\n1,2,3,4,1,0\n", "two tiles called"),
        ("patient,node,x_coord,y_coord,tumor,center\n", "holds no tile"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_wilds_table_that_cannot_be_used_is_refused(tmp_path, text, match):
    (tmp_path / "patches").mkdir()
    (tmp_path / "metadata.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(TileError, match=match):
        TileSet(tmp_path)


def test_real_nct_tiles(shared):
    source = TileSet(shared / "data" / "tiles" / "nct_crc_A")
    assert (source.layout, len(source), source.tile_shape) == ("nct-crc", 90, (144, 144, 3))
    assert source.ids[:2].tolist() == ["ADI_A00", "ADI_A01"]
    assert source.read(np.arange(90)).readable.all()
