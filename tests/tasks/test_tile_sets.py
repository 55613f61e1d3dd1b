"""Tile images to features: HistoSSL's layout and ours, resolution, names, what cannot be read."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microtome.config import ExtractConfig
from microtome.encoders.texture import Texture
from microtome.errors import ConfigError, MissingMppError, NoTilesError
from microtome.features.store import FeatureStore
from microtome.storage import QuietProgress
from microtome.tasks.run import run
from tests.features.fakes import Means
from tests.tiles.test_folder import write_images, write_table
from tests.tiles.test_tile_set import IMAGES, imagefolder, wilds


def do(tiles, out, **values):
    return run(ExtractConfig(tiles=tiles, out=out, quiet=True, **values), progress=QuietProgress())


def test_real_nct_tiles_in_histossl_s_layout(shared, tmp_path):
    root = shared / "data" / "tiles" / "nct_crc_A"
    assert do(root, tmp_path, layout="histossl", mpp=0.5).record.failed == []
    folder = tmp_path / "tiles_classification" / "features" / "texture" / "nct_crc_A"
    features, names = np.load(folder / "tile_features.npy"), np.load(folder / "tile_ids.npy")
    assert (features.shape, features.dtype, names[:2].tolist()) == ((90, 64), np.float32, ["ADI_A00", "ADI_A01"])
    with Image.open(root / "TUM" / "TUM_A03.png") as image:
        resized = np.asarray(image.convert("RGB").resize((224, 224)))
    row = names.tolist().index("TUM_A03")
    np.testing.assert_allclose(features[row], Texture().encode(resized[None])[0], rtol=1e-6, atol=1e-6)
    with (tmp_path / "tiles" / "nct_crc_A.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["id"] for line in table] == names.tolist()
    assert table[row]["label"] == "TUM"
    assert len(do(root, tmp_path, layout="histossl", mpp=0.5).record.skipped) == 1


def test_our_own_layout_keeps_names_and_size(tmp_path):
    root = imagefolder(tmp_path / "set")
    (root / "b" / "10.png").write_bytes(b"torn")
    refused = do(root, tmp_path / "out", mpp=0.5)
    assert "--min-coverage" in refused.record.failed[0].reason
    result = do(root, tmp_path / "out", mpp=0.5, min_coverage=0.5)
    assert (result.record.failed, result.rows[0].n_tiles, result.rows[0].n_unreadable) == ([], 4, 1)
    bag = FeatureStore(tmp_path / "out" / "features" / "texture_32px_0.5")["set"]
    assert bag.columns["name"].tolist() == ["a/2.png", "a/x/1.png", "b/9.png"]
    assert bag.rows is not None
    assert bag.rows.tolist() == [0, 1, 3]
    assert bag.unreadable_errors[0].startswith("Tile '10.png' cannot be decoded")
    np.testing.assert_allclose(bag.features, Texture().encode(IMAGES[[3, 2, 1]]), rtol=1e-6, atol=1e-6)
    table = (tmp_path / "out" / "tiles" / "set.csv").read_text().splitlines()
    assert table[:3] == ["row,id,path,label", "0,a/2.png,a/2.png,a", "1,a/x/1.png,a/x/1.png,a"]


def test_a_corrected_label_costs_no_features(tmp_path):
    root = wilds(tmp_path / "camelyon17")
    do(root, tmp_path / "out", mpp=0.5)
    table = tmp_path / "out" / "tiles" / "camelyon17.csv"
    before = table.read_text()
    text = (root / "metadata.csv").read_text()
    (root / "metadata.csv").write_text(text.replace("21792,1,", "21792,0,"))
    assert len(do(root, tmp_path / "out", mpp=0.5).record.skipped) == 1
    assert table.read_text() == before.replace("21792.png,1,", "21792.png,0,") != before


def test_somebody_must_say_the_resolution(tmp_path):
    root = imagefolder(tmp_path / "set")
    with pytest.raises(MissingMppError, match="assume-card-mpp"):
        do(root, tmp_path / "out")
    with pytest.raises(ConfigError, match="no mpp beside it"):
        do(root, tmp_path / "out", mpp=0.5, assume_card_mpp=True)
    result = do(root, tmp_path / "out", assume_card_mpp=True)
    assert (result.rows[0].mpp, result.rows[0].mpp_source) == (0.5, "assumed: card")
    refused = do(root, tmp_path / "out", mpp=0.5)  # who said it is on record
    assert "tile_mpp_source" in refused.record.failed[0].reason


def test_an_encoder_for_any_resolution_needs_none(tmp_path, monkeypatch):
    monkeypatch.setattr("microtome.tasks.run.load_encoder", lambda *_, **__: Means())
    root = imagefolder(tmp_path / "set")
    assert do(root, tmp_path / "out").record.failed == []
    assert FeatureStore(tmp_path / "out" / "features" / "means_32px_tiles")["set"].mpp is None
    with pytest.raises(ConfigError, match="any resolution"):
        do(root, tmp_path / "out", assume_card_mpp=True)


def test_slides_of_histoprep_are_slides(tmp_path):
    for name in ("A12", "B7"):
        write_table(write_images(tmp_path / "cut" / name / "tiles"))
    result = do(tmp_path / "cut", tmp_path / "out", mpp=0.5)
    assert result.record.failed == []
    store = FeatureStore(tmp_path / "out" / "features" / "texture_32px_0.5")
    assert list(store) == ["A12", "B7"]
    assert store["A12"].coords.tolist()[:2] == [[0, 0], [64, 0]]
    alone = do(tmp_path / "cut" / "A12", tmp_path / "one", mpp=0.5, tiles_layout="histoprep")
    assert [row.slide_id for row in alone.rows] == ["A12"]
    with pytest.raises(ConfigError, match="no place in the layout histossl"):
        do(tmp_path / "cut", tmp_path / "out", mpp=0.5, layout="histossl")
    sized = do(tmp_path / "cut", tmp_path / "out", mpp=0.5, tile_px=64)
    assert all("Leave --tile-px out" in f.reason for f in sized.record.failed)


def test_folders_that_will_not_do_are_refused(tmp_path):
    with pytest.raises(NoTilesError, match="not a folder"):
        do(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoTilesError, match="no slide of HistoPrep"):
        do(tmp_path / "empty", tmp_path / "out", tiles_layout="histoprep")
    (failed,) = do(tmp_path / "empty", tmp_path / "out", mpp=0.5).record.failed
    assert "holds no tile" in failed.reason


def test_names_of_any_letters_and_drawn_tiles(tmp_path):
    root = imagefolder(tmp_path / "Gewebe µ 2")
    result = do(root, tmp_path / "out", mpp=0.5, layout="histossl", n_tiles=2, seed=1)
    assert result.record.failed == []
    folder = tmp_path / "out" / "tiles_classification" / "features" / "texture" / "Gewebe µ 2"
    assert len(np.load(folder / "tile_ids.npy")) == len(np.load(folder / "tile_features.npy")) == 2
    params = json.loads((folder / "rlbenchmarks_extraction_params.json").read_text())
    assert (params["n_tiles"], params["seed"], params["tile_size"]) == (2, 1, 224)


def test_the_command_line_takes_both(tmp_path, capsys):
    from microtome.cli.app import main

    root = imagefolder(tmp_path / "set")
    call = ["extract", "--tiles", str(root), "--mpp", "0.5", "--layout", "histossl", "--out", str(tmp_path / "out")]
    assert main([*call, "--quiet"]) == 0
    assert list(Path(tmp_path / "out").rglob("tile_features.npy"))
    assert main([*call, "--coords", "c"]) == 2
    assert "Pass one of them" in capsys.readouterr().err
