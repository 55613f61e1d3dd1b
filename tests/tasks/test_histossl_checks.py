import csv
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from microtome.errors import ConfigError
from microtome.tasks import histossl_checks
from microtome.tasks.histossl_checks import Finding, inspect_histossl, write_findings
from tests.tasks.histossl_data import (
    camelyon16_names,
    slide_names,
    write_all,
    write_camelyon16,
    write_clinical,
    write_coords,
    write_features,
    write_slides,
)

CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
WILDS_HEAD = ",patient,node,x_coord,y_coord,tumor,slide,center,split"

PUBLISHED = (histossl_checks.CAMELYON16_COUNTS, histossl_checks.NCT_COUNTS, histossl_checks.WILDS_COUNTS)


@pytest.fixture(autouse=True)
def _small_counts(monkeypatch):
    """The published counts are checked by a test of their own; the others have a few tiles."""
    monkeypatch.setattr(histossl_checks, "CAMELYON16_COUNTS", {"train": 8, "test": 4})
    monkeypatch.setattr(histossl_checks, "NCT_COUNTS", {"train": 9, "valid": 9})
    monkeypatch.setattr(histossl_checks, "WILDS_COUNTS", {"train": 3, "valid": 1, "test": 2})


def look(root: Path) -> dict[tuple[str, str], Finding]:
    return {(f.part, f.check): f for f in inspect_histossl(root)}


def failures(root: Path) -> list[str]:
    return [f"{f.part}, {f.check}: {text}" for f in inspect_histossl(root) for text in f.failures]


def write_nct(root: Path, *, readme: bool = True) -> Path:
    base = root / "raw" / "tiles_classification" / "NCT-CRC_FULL"
    for i, name in enumerate(("NCT-CRC-HE-100K-NONORM", "NCT-CRC-VAL-HE-7K" if readme else "CRC-VAL-HE-7K")):
        for label in CLASSES:
            (base / name / label).mkdir(parents=True)
            (base / name / label / f"{label}-{i}.tif").touch()
    (base / ("labels" if readme else "clinical")).mkdir()
    return base


def write_wilds(root: Path) -> Path:
    base = root / "raw" / "tiles_classification" / "CAMELYON17-WILDS_FULL"
    rows = []
    for i, centre in enumerate((0, 3, 4, 1, 2, 2)):
        folder = base / "patches" / f"patient_{i:03}_node_1"
        folder.mkdir(parents=True)
        (folder / f"patch_patient_{i:03}_node_1_x_{96 * i}_y_32.png").touch()
        rows.append(f"{i},{i:03},1,{96 * i},32,{i % 2},0,{centre},0")
    (base / "metadata.csv").write_text("\n".join([WILDS_HEAD, *rows]) + "\n")
    return base / "metadata.csv"


def write_tile_features(root: Path, name: str, n: int, *, ids: list[str] | None = None) -> Path:
    folder = root / "preprocessed" / "tiles_classification" / "features" / "CTransPath" / name
    folder.mkdir(parents=True)
    np.save(folder / "tile_features.npy", np.zeros((n, 4), np.float32))
    np.save(folder / "tile_ids.npy", np.array(ids or [f"t{i}" for i in range(n)], dtype=object))
    return folder


def test_the_published_counts():
    assert PUBLISHED[0] == {"train": 269, "test": 130}
    assert [sum(counts.values()) for counts in PUBLISHED[1:]] == [107_180, 455_954]


def test_a_whole_download_has_no_failure(tmp_path):
    write_all(tmp_path)
    train, test = camelyon16_names()
    write_coords(tmp_path, "CAMELYON16_FULL", [f"{name}.tif" for name in (*train, *test)])
    write_slides(tmp_path, "TCGA_BRCA", slide_names("BRCA"))
    for file in (tmp_path / "raw").rglob("*.svs"):
        file.write_bytes(b"II*\0")
    write_nct(tmp_path)
    write_wilds(tmp_path)
    write_tile_features(tmp_path, "NCT-CRC_FULL", 18)
    found = look(tmp_path)
    assert failures(tmp_path) == []
    assert all(f.passed for f in found.values())
    assert found["CAMELYON16_FULL", "coords_224"].text == "12 files, 60 tiles"
    assert found["TCGA_BRCA", "slides"].text == "7 files"
    assert found["TCGA_KICH", "slides"].text == "no files; 7 slides have coordinates or features"
    assert found["TCGA_BRCA", "features of iBOTViTBasePANCAN"].text == "7 files, 35 tiles"
    assert "6 slides of 5 patients; 1 without" in found["tcga_brca_hrd_prediction", "labels"].text
    assert found["CAMELYON17-WILDS_FULL", "tiles"].text == "3 train, 1 valid, 2 test"
    assert found["NCT-CRC_FULL", "features of CTransPath"].text == "18 tiles"


def test_what_nobody_downloaded_is_absent_and_no_failure(tmp_path):
    write_clinical(tmp_path)
    write_features(tmp_path, "TCGA_PAAD", slide_names("PAAD"))
    found = look(tmp_path)
    assert failures(tmp_path) == []
    assert found["TCGA_PAAD", "slides"].passed
    assert found["tcga_paad_os_prediction", "labels"].passed
    absent = {part for (part, _), f in found.items() if f.passed is None}
    assert {"TCGA_COAD", "CAMELYON16_FULL", "tcga_coad_os_prediction", "NCT-CRC_FULL"} <= absent


def test_slides_without_files_twice_or_empty_are_named(tmp_path):
    write_clinical(tmp_path)
    names = slide_names("PAAD")
    files = write_slides(tmp_path, "TCGA_PAAD", [*names, names[2]])
    for file in files[1:]:
        file.write_bytes(b"II*\0")
    write_features(tmp_path, "TCGA_PAAD", [*names[:5], "TCGA-ZZ-9999-01Z-00-DX1.svs"])
    write_coords(tmp_path, "TCGA_PAAD", names[:6], side=256)
    said = failures(tmp_path)
    stems = [name.removesuffix(".svs") for name in names]
    assert f"TCGA_PAAD, slides: 2 files are called '{stems[2]}'" in said
    assert f"TCGA_PAAD, slides: '{files[0]}' is empty" in said
    assert f"TCGA_PAAD, coords_256: slide '{stems[6]}' has none" in said
    for stem in stems[5:]:
        assert f"TCGA_PAAD, features of iBOTViTBasePANCAN: slide '{stem}' has none" in said
    assert any("TCGA-ZZ-9999-01Z-00-DX1" in text and "of no slide that is there" in text for text in said)
    assert any(text.startswith("tcga_paad_os_prediction, labels: ") and "are both of slide" in text for text in said)


def test_damaged_arrays_are_named(tmp_path):
    write_clinical(tmp_path)
    names = slide_names("PAAD")
    write_features(tmp_path, "TCGA_PAAD", names)
    write_coords(tmp_path, "TCGA_PAAD", names)
    base = tmp_path / "preprocessed" / "slides_classification"
    features = [base / "features" / "iBOTViTBasePANCAN" / "TCGA" / "TCGA_PAAD" / n / "features.npy" for n in names]
    features[0].write_bytes(features[0].read_bytes()[:-4])
    np.save(features[1], np.zeros((5, 7)))  # float64
    np.save(features[2], np.zeros((5, 9), np.float32))
    np.save(features[3], np.zeros((0, 7), np.float32))
    np.save(base / "coords" / "coords_224" / "TCGA" / "TCGA_PAAD" / names[4] / "coords.npy", np.zeros((5, 3)))
    said = failures(tmp_path)
    for file in (features[0], features[1], features[3]):
        assert any(str(file) in text for text in said)
    assert any("files of different width: 3 of 7, 1 of 9" in text for text in said)
    assert any("is float64 (5, 3), not whole numbers" in text for text in said)
    assert len(said) == 5


def test_camelyon16_counts_and_labels(tmp_path):
    train, test = camelyon16_names()
    write_camelyon16(tmp_path, [*train[:-1], *test])
    write_features(tmp_path, "CAMELYON16_FULL", [f"{name}.tif" for name in (*train, *test[:-1])])
    assert failures(tmp_path) == [
        "CAMELYON16_FULL, slides: 3 slides of test, not 4",
        "camelyon16_train_tumor_prediction, labels: slide 'tumor_004': label is missing",
    ]


def test_tables_that_cannot_be_read_are_named(tmp_path):
    tables = write_clinical(tmp_path)
    write_features(tmp_path, "TCGA_PAAD", slide_names("PAAD"))
    write_features(tmp_path, "TCGA_OV", slide_names("OV"))
    (tables / "survival" / "TCGA_PAAD_survival.csv").write_text("bcr_patient_barcode,OS\nTCGA-P0-1000,1\n")
    shutil.rmtree(tables / "hrd")
    said = failures(tmp_path)
    assert any(text.startswith("tcga_paad_os_prediction, labels:") and "lacks OS.time" in text for text in said)
    assert any(text.startswith("tcga_ov_hrd_prediction, labels:") and "no table of hrd" in text for text in said)


def test_counts_of_the_statistics(tmp_path):
    write_clinical(tmp_path)
    write_features(tmp_path, "TCGA_PAAD", slide_names("PAAD"))
    counted: dict[str, dict[str, tuple[object, ...]]] = {"TCGA_PAAD": {"OS": (4, 5, {})}, "TCGA_XY": {"OS": (1, 1, {})}}
    (tmp_path / "raw" / "tcga_statistics.pk").write_bytes(pickle.dumps(counted))
    assert failures(tmp_path) == []
    counted["TCGA_PAAD"]["OS"] = (4, 6, {})
    (tmp_path / "raw" / "tcga_statistics.pk").write_bytes(pickle.dumps(counted))
    assert failures(tmp_path) == [
        "tcga_paad_os_prediction, labels: 4 patients and 5 slides with a label, tcga_statistics.pk says 4 and 6"
    ]


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_a_pickle_that_would_run_is_not_run_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clinical(tmp_path)
    (tmp_path / "raw" / "tcga_statistics.pk").write_bytes(pickle.dumps(Evil()))
    said = failures(tmp_path)
    assert not Path("evil").exists()
    assert [text for text in said if text.startswith("TCGA, tcga_statistics.pk: ")]
    for content in (b"", pickle.dumps([1]), pickle.dumps({"TCGA_PAAD": {"OS": ()}})):
        (tmp_path / "raw" / "tcga_statistics.pk").write_bytes(content)
        assert [text for text in failures(tmp_path) if text.startswith("TCGA, tcga_statistics.pk: ")]


def test_tiles_of_both_names(tmp_path):
    base = write_nct(tmp_path, readme=False)
    assert failures(tmp_path) == []
    (base / "CRC-VAL-HE-7K" / "TUM" / "TUM-1.tif").rename(base / "CRC-VAL-HE-7K" / "TUM" / "ADI-1.tif")
    shutil.rmtree(base / "NCT-CRC-HE-100K-NONORM" / "STR")
    (base / "NCT-CRC-HE-100K-NONORM" / "XXX").mkdir()
    (base / "clinical" / "valid.csv").write_text("image_id,label\na,TUM\nb,\na,ADI\n")
    said = [text.partition(": ")[2] for text in failures(tmp_path)]
    assert f"'{base / 'NCT-CRC-HE-100K-NONORM'}' has no class STR" in said
    assert f"'{base / 'NCT-CRC-HE-100K-NONORM' / 'XXX'}' is no class" in said
    assert "8 tiles of train, not 9" in said
    assert "'ADI-1' occurs 2 times" in said
    assert f"'{base / 'clinical' / 'valid.csv'}': 'a' occurs 2 times" in said
    assert f"'{base / 'clinical' / 'valid.csv'}', line 3: the label is missing" in said
    assert len(said) == 6
    shutil.rmtree(base / "CRC-VAL-HE-7K")
    assert any("has no folder NCT-CRC-VAL-HE-7K or CRC-VAL-HE-7K" in text for text in failures(tmp_path))


def test_wilds(tmp_path):
    table = write_wilds(tmp_path)
    assert failures(tmp_path) == []
    rows = table.read_text().splitlines()
    rows[1] = rows[1].replace(",0,0,0,0", ",,0,0,0")  # no label
    rows[2] = rows[2].replace(",3,0", ",9,0")  # no such centre
    rows[3] = rows[3].replace(",192,", ",193,")  # no such patch
    rows.append(rows[4])  # twice
    table.write_text("\n".join(rows) + "\n")
    said = [text.partition(": ")[2] for text in failures(tmp_path)]
    assert any("line 2: the label of 'patch_patient_000_node_1_x_0_y_32' is missing" in text for text in said)
    assert any("line 3" in text and "'9'" in text for text in said)
    assert any("x_193_y_32.png' is not there" in text for text in said)
    assert "2 tiles of train, not 3" in said
    assert "2 tiles of valid, not 1" in said
    assert any("patient_003" in text and "occurs 2 times" in text for text in said)
    table.unlink()
    assert any("has no metadata.csv" in text for text in failures(tmp_path))


def test_tile_features(tmp_path):
    write_tile_features(tmp_path, "NCT-CRC_FULL", 17)
    folder = write_tile_features(tmp_path, "CAMELYON17-WILDS_FULL", 6, ids=["a", "a", "b", "c", "d"])
    said = failures(tmp_path)
    assert any("has 17 rows, not 18" in text for text in said)
    assert f"CAMELYON17-WILDS_FULL, features of CTransPath: '{folder / 'tile_ids.npy'}' is (5,), not (6,)" in said
    assert "CAMELYON17-WILDS_FULL, features of CTransPath: 'a' occurs 2 times" in said
    (folder / "tile_ids.npy").unlink()
    assert any("tile_ids.npy" in text for text in failures(tmp_path))


def test_findings_as_a_table(tmp_path):
    made = (
        Finding("a", "slides", "3 files"),
        Finding("b", "slides", "2 files", ('one, "quoted"', "two")),
        Finding("c", "slides", "nothing", absent=True),
    )
    write_findings(tmp_path / "deep" / "found.csv", made)
    with (tmp_path / "deep" / "found.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["part", "check", "verdict", "what"],
            ["a", "slides", "ok", "3 files"],
            ["b", "slides", "failed", 'one, "quoted"'],
            ["b", "slides", "failed", "two"],
            ["c", "slides", "absent", "nothing"],
        ]


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="neither raw/ nor preprocessed/"):
        inspect_histossl(tmp_path)
