from pathlib import Path

import pytest

from microtome.cohort.splits import camelyon16_split, nested_splits
from microtome.cohort.table import read_cohort, write_cohort
from microtome.cohort.targets import read_labels
from microtome.errors import CohortError, ConfigError, MissingOutputError
from microtome.models.objectives import list_objectives
from microtome.tasks.catalogue import find_published, list_tasks, read_task, task_cohort, task_definition
from microtome.tasks.histossl_layout import find_histossl
from microtome.tasks.task_definitions import TASKS
from tests.tasks.histossl_data import (
    camelyon16_names,
    patient,
    slide_names,
    write_all,
    write_camelyon16,
    write_clinical,
    write_coords,
    write_features,
    write_slides,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Read only."""
    return write_all(tmp_path_factory.mktemp("histossl"))


def found(data: Path, name: str) -> tuple[dict[str, list[float]], dict[str, str]]:
    """First characters of the patient's number (or Camelyon16's name) → values; reason → slides."""
    task = read_task(name, data)
    labels = read_labels(task.cohort, task.target)
    assert labels.patient_ids == tuple(task.cohort[i].patient_id for i in labels.ids)
    return dict(zip(labels.ids, labels.values.tolist(), strict=True)), dict(labels.excluded)


def by_patient(values: dict[str, list[float]]) -> dict[str, set[tuple[float, ...]]]:
    out: dict[str, set[tuple[float, ...]]] = {}
    for slide, row in values.items():
        out.setdefault(slide[:12], set()).add(tuple(row))
    return out


def test_the_names_are_those_of_the_reference():
    stems = [
        "camelyon16_train_tumor", "tcga_crc_msi", "tcga_stad_msi", "tcga_ov_hrd", "tcga_brca_hrd",
        "tcga_brca_histological_subtype", "tcga_brca_molecular_subtype", "tcga_nsclc_cancer_subtype",
        "tcga_rcc_cancer_subtype", "tcga_brca_os", "tcga_coad_os", "tcga_luad_os", "tcga_lusc_os", "tcga_paad_os",
    ]  # fmt: skip
    assert list_tasks() == tuple(f"{stem}_prediction" for stem in stems)
    assert task_definition("tcga_crc_msi") is task_definition("tcga_crc_msi_prediction")
    with pytest.raises(ConfigError, match="Did you mean 'tcga_crc_msi_prediction'"):
        task_definition("tcga_crc_mis")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_definitions_hold_together(task):
    assert task.objective in list_objectives(task.target.type)
    assert set(task.mapping.values()) <= set(task.target.classes)
    assert all(cell == cell.lower() for cell in (*task.mapping, *task.dropped))
    assert all(50 < mean < 100 and 0 < sd < 10 for mean, sd in task.published.values())
    assert bool(task.table_names) == (task.table not in ("none", "camelyon16"))


@pytest.mark.parametrize("name", list_tasks())
def test_every_task_reads_its_tables(data, name):
    task = read_task(name, data)
    labels = read_labels(task.cohort, task.target)
    assert sorted([*labels.ids, *labels.excluded]) == sorted(task.cohort.slide_ids)
    assert len(labels) >= 2
    assert {slide.labels["cohort"] for slide in task.cohort.slides} == set(task.definition.cohorts)


def test_msi(data):
    values, excluded = found(data, "tcga_crc_msi")
    for cohort in ("COAD", "READ"):
        first = patient(cohort, 0)
        assert [v for s, v in values.items() if s.startswith(first)] == [[1.0], [1.0]]  # both slides of the patient
        assert by_patient(values)[patient(cohort, 1)] == {(0.0,)}
        assert by_patient(values)[patient(cohort, 2)] == {(0.0,)}  # MSI-L is not MSI-H
        for i in (3, 4, 5):  # indeterminate, missing, not in the table
            assert patient(cohort, i) not in by_patient(values)
    assert sorted(excluded.values()) == ["label 'Indeterminate' is none of the classes"] * 2 + ["label is missing"] * 4


def test_survival(data):
    task = read_task("tcga_coad_os", data)
    labels = read_labels(task.cohort, task.target)
    assert task.target.columns == ("OS.time", "OS")
    values = by_patient(dict(zip(labels.ids, labels.values.tolist(), strict=True)))
    assert values == {patient("COAD", i): {(100.0 * (i + 1), float(i % 2))} for i in (0, 1, 2, 4)}
    assert sorted(labels.excluded.values()) == ["survival time is missing"] * 2
    assert [table.name for table in task.tables] == ["TCGA_COAD_survival.csv"]


def test_hrd_written_as_floats(data):
    values, _ = found(data, "tcga_ov_hrd")
    assert by_patient(values) == {patient("OV", i): {(float(i % 2),)} for i in range(5)}


def test_subtypes_of_breast(data):
    values, excluded = found(data, "tcga_brca_histological_subtype")
    assert by_patient(values) == {patient("BRCA", i): {(float(i % 4),)} for i in (0, 1, 4, 5)}
    assert sorted(set(excluded.values())) == [
        "label 'Breast Invasive Mixed Mucinous Carcinoma' is none of the classes",
        "label is missing",
    ]
    values, _ = found(data, "tcga_brca_molecular_subtype")
    basal, her2, lum_a, lum_b, normal = range(5)  # alphabetical
    order = [lum_a, basal, her2, lum_b, normal]
    assert by_patient(values) == {patient("BRCA", i): {(float(k),)} for i, k in enumerate(order)}


def test_the_cohort_is_the_subtype(data):
    values, excluded = found(data, "tcga_rcc_cancer_subtype")
    assert not excluded
    codes = {patient(c, 0): {(float(k),)} for k, c in enumerate(("KIRC", "KIRP", "KICH"))}
    assert {p: v for p, v in by_patient(values).items() if p in codes} == codes
    values, _ = found(data, "tcga_nsclc_cancer_subtype")
    assert by_patient(values)[patient("LUSC", 1)] == {(1.0,)}


def test_camelyon16_leaves_its_test_slides_out(data):
    values, _ = found(data, "camelyon16_train_tumor_prediction")
    train, test = camelyon16_names()
    assert values == {name: [float(name.startswith("tumor"))] for name in train}
    whole = read_task("camelyon16_train_tumor", data, with_test=True)
    labels = read_labels(whole.cohort, whole.target)
    assert len(labels) == len(train) + len(test)
    (split,) = camelyon16_split(labels)
    assert sorted(labels.ids[i] for i in split.test) == test
    assert {s.labels["split"] for s in whole.cohort.slides if s.slide_id in test} == {"test"}
    assert whole.cohort["test_003"].labels["target"] == "Tumor"


def test_a_task_goes_on_to_splits_by_patient_and_site(data):
    task = read_task("tcga_brca_hrd", data, encoder="iBOTViTBasePANCAN")
    labels = read_labels(task.cohort, task.target)
    (first, *_) = nested_splits(labels, outer=2, inner=0)
    assert len(first.train) + len(first.test) == len(labels)
    assert {slide.labels["site"] for slide in task.cohort.slides} == {"B0", "B1"}


def test_a_task_as_a_table_of_slides(data, tmp_path):
    task = read_task("tcga_paad_os", data)
    write_cohort(tmp_path / "paad.csv", task.cohort)
    again = read_cohort(tmp_path / "paad.csv")
    assert again == task.cohort
    assert read_labels(again, task.target).values.tolist() == read_labels(task.cohort, task.target).values.tolist()


def test_slides_are_those_that_are_there(tmp_path):
    write_clinical(tmp_path)
    names = slide_names("PAAD")
    files = write_slides(tmp_path, "TCGA_PAAD", names[:3])
    write_coords(tmp_path, "TCGA_PAAD", names[2:5])
    write_features(tmp_path, "TCGA_PAAD", names[4:6], encoder="CTransPath")
    stems = [name.removesuffix(".svs") for name in names]
    whole = read_task("tcga_paad_os", tmp_path).cohort
    assert sorted(whole.slide_ids) == sorted(stems[:6])
    assert {slide.path for slide in whole.slides if slide.path} == set(files)
    encoded = read_task("tcga_paad_os", tmp_path, encoder="CTransPath").cohort
    assert sorted(encoded.slide_ids) == sorted(stems[4:6])
    with pytest.raises(MissingOutputError, match=r"no features of 'ResNet50'.*CTransPath"):
        read_task("tcga_paad_os", tmp_path, encoder="ResNet50")
    with pytest.raises(CohortError, match="TCGA_COAD, which tcga_coad_os"):
        read_task("tcga_coad_os", tmp_path)


@pytest.mark.parametrize("name", ["brca_tcga_pan_can_clinical_data.tsv", "tcga_brca_pan_can_clinical_data.tsv"])
def test_names_of_the_readme_and_of_the_code(tmp_path, name):
    tables = write_clinical(tmp_path, subtype_file=name)
    write_features(tmp_path, "TCGA_BRCA", slide_names("BRCA"))
    (tables / "subtypes" / "paad_tcga_clinical_data.tsv").write_text("Patient ID\tSubtype\n")
    task = read_task("tcga_brca_molecular_subtype", tmp_path)
    assert [table.name for table in task.tables] == [name]
    twin = tables / "subtypes" / f"copy_brca_{name}"
    twin.write_bytes((tables / "subtypes" / name).read_bytes())
    assert len(read_task("tcga_brca_molecular_subtype", tmp_path).tables) == 1
    twin.write_text("Patient ID\tSubtype\nTCGA-B0-0000\tBRCA_LumB\n")
    with pytest.raises(CohortError, match=r"differ\. Pass tables"):
        read_task("tcga_brca_molecular_subtype", tmp_path)
    assert len(read_task("tcga_brca_molecular_subtype", tmp_path, tables=[tables / "subtypes" / name]).tables) == 1


def test_one_table_for_all_cohorts_and_singular_folders(tmp_path):
    tables = write_clinical(tmp_path)
    write_features(tmp_path, "TCGA_LUAD", slide_names("LUAD"))
    files = sorted((tables / "survival").iterdir())
    whole = "".join(f.read_text() if i == 0 else f.read_text().partition("\n")[2] for i, f in enumerate(files))
    for file in files:
        file.unlink()
    (tables / "survival" / "TCGA-CDR.csv").write_text(whole)
    assert [t.name for t in read_task("tcga_luad_os", tmp_path).tables] == ["TCGA-CDR.csv"]
    for folder in ("raw", "preprocessed"):
        (tmp_path / folder / "slides_classification").rename(tmp_path / folder / "slide_classification")
    assert len(read_task("tcga_luad_os", tmp_path).cohort) == 7
    (tables.parents[2] / "slide_classification" / "TCGA" / "clinical" / "survival" / "TCGA-CDR.csv").unlink()
    with pytest.raises(CohortError, match="a file with luad in its name"):
        read_task("tcga_luad_os", tmp_path)


def test_cbioportal_files_with_comments_and_capitals(tmp_path):
    path = tmp_path / "data_clinical_patient.txt"
    rows = [f"{patient('BRCA', i)}\tBRCA_{kind}" for i, kind in enumerate(("LumA", "Basal"))]
    path.write_text("\n".join(["#Patient Identifier\tSubtype", "#STRING\tSTRING", "PATIENT_ID\tSUBTYPE", *rows]))
    slides = {"TCGA_BRCA": dict.fromkeys(slide_names("BRCA"))}
    task = task_cohort(task_definition("tcga_brca_molecular_subtype"), slides, [path])
    assert read_labels(task.cohort, task.target).values[:, 0].tolist() == [2, 2, 0]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (
            "tcga_crc_msi",
            "TCGA-C0-0100,MSI-H\nTCGA-C0-0100,MSS\n",
            "line 2: 'TCGA-C0-0100' has MSS, and elsewhere",
        ),
        ("tcga_crc_msi", "TCGA-C0-0100,MSI-H\nnobody,MSS\n", r"line 2: 'nobody' is no TCGA barcode"),
        ("tcga_crc_msi", "TCGA-C0-0100,MSI-H\nTCGA-C0-0101\n", r"line 2: the row has no patient"),
        ("tcga_crc_msi", "patient_id,label\n", "holds no patients"),
        ("tcga_crc_msi", "TCGA-ZZ-0100,MSI-H\n", r"None of the 7 slides is in .*'TCGA-ZZ-0100'"),
        ("tcga_coad_os", "bcr_patient_barcode,OS\nTCGA-C0-0100,1\n", r"it lacks OS\.time"),
        ("tcga_coad_os", "OS,OS.time\n1,5\n", "it lacks patient"),
        ("tcga_ov_hrd", "patient_id\nTCGA-C0-0100\n", "it lacks HRD"),
        ("tcga_coad_os", "", "it lacks OS.time, OS"),
    ],
)
def test_tables_that_cannot_stand(tmp_path, name, text, reason):
    path = tmp_path / "table.csv"
    path.write_text(text)
    slides = {"TCGA_COAD": dict.fromkeys(slide_names("COAD"))}
    with pytest.raises(CohortError, match=reason):
        task_cohort(task_definition(name), slides, [path])


def test_slides_that_cannot_stand(tmp_path):
    path = write_camelyon16(tmp_path, ["normal_001", "tumor_001"])
    task = task_definition("camelyon16_train_tumor")
    with pytest.raises(CohortError, match="'scan_7' has no name of Camelyon16"):
        task_cohort(task, {"CAMELYON16_FULL": {"scan_7.tif": None}}, [path])
    with pytest.raises(CohortError, match="needs a table of camelyon16"):
        task_cohort(task, {"CAMELYON16_FULL": {"normal_001.tif": None}})
    with pytest.raises(CohortError, match="'scan_7' is no TCGA barcode"):
        task_cohort(task_definition("tcga_rcc_cancer_subtype"), {"TCGA_KIRC": {"scan_7.svs": None}})
    with pytest.raises(CohortError, match="has no slides"):
        task_cohort(task, {"CAMELYON16_FULL": {}}, [path])


def test_published_values():
    value = find_published("tcga_crc_msi", "iBOTViTBasePANCAN")
    assert value is not None
    assert (value.mean, value.sd) == (0.91, 0.022)
    assert "self-reported" in value.source
    assert find_published("tcga_crc_msi_prediction", "phikon") == find_published("tcga_crc_msi", "phikon-ibot") == value
    assert find_published("tcga_paad_os", "CTransPath") is not None
    assert find_published("tcga_paad_os", "phikon") is None  # not found anywhere
    assert find_published("tcga_crc_msi", "uni") is None
    assert find_published("my own task", "phikon") is None


def test_layout(data, tmp_path):
    folder = find_histossl(data)
    assert folder.encoders() == ("iBOTViTBasePANCAN",)
    assert find_histossl(data / "preprocessed").preprocessed == folder.preprocessed
    assert find_histossl(data / "raw").raw == folder.raw
    files = folder.features(["TCGA_KIRC", "CAMELYON16_FULL"], "iBOTViTBasePANCAN")
    assert set(files) == {n.removesuffix(".svs") for n in slide_names("KIRC")} | {
        name for names in camelyon16_names() for name in names
    }
    with pytest.raises(ConfigError, match="neither raw/ nor preprocessed/"):
        find_histossl(tmp_path)


def test_one_slide_twice(tmp_path):
    names = slide_names("PAAD")
    write_slides(tmp_path, "TCGA_PAAD", [names[0], names[1], names[0]])
    with pytest.raises(CohortError, match="are both of slide"):
        find_histossl(tmp_path).slides(["TCGA_PAAD"])
