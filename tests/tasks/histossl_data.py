"""A small download of HistoSSL: its folders and clinical tables in their published form, with slides of nothing."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

COHORTS = ("BRCA", "COAD", "READ", "STAD", "OV", "LUAD", "LUSC", "KIRC", "KIRP", "KICH", "PAAD")
SURVIVAL_HEAD = (
    ",bcr_patient_barcode,OS,OS.time,PFI,PFI.time,age_at_initial_pathologic_diagnosis,gender,race,"
    "ajcc_pathologic_tumor_stage,histological_grade"
)
SUBTYPE_HEAD = (
    "Study ID\tPatient ID\tSample ID\tTCGA PanCanAtlas Cancer Type Acronym\tSubtype\tCancer Type Detailed\tTumor Type"
)
HISTOLOGY = (
    "Breast Invasive Ductal Carcinoma",
    "Breast Invasive Lobular Carcinoma",
    "Breast Invasive Mixed Mucinous Carcinoma",
    "",
)
SUBTYPES = ("BRCA_LumA", "BRCA_Basal", "BRCA_Her2", "BRCA_LumB", "BRCA_Normal", "")


def patient(cohort: str, i: int) -> str:
    """The i-th patient of a cohort; two sites."""
    return f"TCGA-{cohort[:1]}{i % 2}-{COHORTS.index(cohort):02}{i:02}"


def slide_names(cohort: str, n_patients: int = 6) -> list[str]:
    """Slide files: the first patient has two."""
    names = [f"{patient(cohort, i)}-01Z-00-DX1.0a{i:02}.svs" for i in range(n_patients)]
    return [f"{patient(cohort, 0)}-01Z-00-DX2.ffff.svs", *names]


def write_clinical(root: Path, *, subtype_file: str = "brca_tcga_clinical_data.tsv") -> Path:
    """Tables below ``raw``, in the form of the published ones."""
    tables = root / "raw" / "slides_classification" / "TCGA" / "clinical"
    for kind in ("survival", "msi", "hrd", "subtypes"):
        (tables / kind).mkdir(parents=True)
    for cohort in COHORTS:
        # the last patient is not in the table, the fourth has no time, events alternate
        rows = [
            f"{i},{patient(cohort, i)},{i % 2},{'' if i == 3 else 100 * (i + 1)},0,5,60,FEMALE,WHITE,Stage I,[Unknown]"
            for i in range(5)
        ]
        text = "\n".join([SURVIVAL_HEAD, *rows]) + "\n"
        (tables / "survival" / f"TCGA_{cohort}_survival.csv").write_text(text)
    calls = ("MSI-H", "MSS", "MSI-L", "Indeterminate", "")
    crc = [f"{patient(cohort, i)},{calls[i]}" for cohort in ("COAD", "READ") for i in range(5)]
    (tables / "msi" / "msi_tcga_crc.csv").write_text("\n".join(crc) + "\n")
    (tables / "msi" / "msi_tcga_stad.csv").write_text("\n".join(f"{patient('STAD', i)},{calls[i]}" for i in range(5)))
    for cohort in ("OV", "BRCA"):
        rows = [f"{patient(cohort, i)},{i % 2}.0" for i in range(5)]
        (tables / "hrd" / f"tcga_{cohort.lower()}_hrd.csv").write_text("\n".join(["patient_id,HRD", *rows]))
    rows = [
        f"brca_tcga\t{p}\t{p}-01\tBRCA\t{SUBTYPES[i]}\t{HISTOLOGY[i % 4]}\tx"
        for i, p in enumerate(patient("BRCA", i) for i in range(6))
    ]
    (tables / "subtypes" / subtype_file).write_text("\n".join([SUBTYPE_HEAD, *rows]) + "\n")
    return tables


def camelyon16_names(n: int = 4) -> tuple[list[str], list[str]]:
    """Slides of its training and of its test part."""
    train = [f"{kind}_{i:03}" for kind in ("normal", "tumor") for i in range(1, n + 1)]
    return train, [f"test_{i:03}" for i in range(1, n + 1)]


def write_camelyon16(root: Path, names: Iterable[str], name: str = "labels.csv") -> Path:
    """The table with an unnamed first column."""
    folder = root / "raw" / "slides_classification" / "CAMELYON16_FULL" / "clinical"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{n},x,{'Tumor' if n.startswith('tumor') or n in ('test_001', 'test_003') else 'Normal'}" for n in names]
    (folder / name).write_text("\n".join([",info,target", *rows]) + "\n")
    return folder / name


def write_features(root: Path, cohort: str, names: Iterable[str], encoder: str = "iBOTViTBasePANCAN") -> None:
    """``features.npy`` of five tiles per slide: level, column, row, and four features."""
    place = Path("TCGA", cohort) if cohort.startswith("TCGA_") else Path(cohort)
    for i, name in enumerate(names):
        folder = root / "preprocessed" / "slides_classification" / "features" / encoder / place / name
        folder.mkdir(parents=True)
        rows = np.random.default_rng(i).normal(size=(5, 7)).astype(np.float32)
        rows[:, :3] = [[16, k, 0] for k in range(5)]
        np.save(folder / "features.npy", rows)


def write_coords(root: Path, cohort: str, names: Iterable[str], side: int = 224) -> None:
    """``coords.npy`` of five tiles per slide."""
    place = Path("TCGA", cohort) if cohort.startswith("TCGA_") else Path(cohort)
    for name in names:
        folder = root / "preprocessed" / "slides_classification" / "coords" / f"coords_{side}" / place / name
        folder.mkdir(parents=True)
        np.save(folder / "coords.npy", np.array([[16, k, 0] for k in range(5)]))


def write_slides(root: Path, cohort: str, names: Iterable[str]) -> list[Path]:
    """Empty files where the slides belong."""
    base = root / "raw" / "slides_classification"
    made = []
    for i, name in enumerate(names):
        folder = base / "CAMELYON16_FULL" / "slides"
        if cohort.startswith("TCGA_"):
            folder = base / "TCGA" / "slides" / "parafine" / cohort / f"{i:08x}-uuid"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        made.append(folder / name)
    return made


def write_all(root: Path) -> Path:
    """Tables and features of every cohort."""
    write_clinical(root)
    for cohort in COHORTS:
        write_features(root, f"TCGA_{cohort}", slide_names(cohort))
    train, test = camelyon16_names()
    write_camelyon16(root, [*train, *test])
    write_features(root, "CAMELYON16_FULL", [f"{name}.tif" for name in (*train, *test)])
    return root
