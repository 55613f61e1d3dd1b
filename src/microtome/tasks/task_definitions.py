"""The 14 slide-level tasks of HistoSSL.

References:
    HistoSSL (73f1d19), specification sections 4 (tasks, columns, mappings, losses) and 5 (published values: the model
    cards of 1aurent on Hugging Face, self-reported, which do not say the aggregator; mean ± standard deviation over
    test folds. Survival rows are labelled AUC there, and presumably the C-index).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from microtome.cohort.targets import Target

TableKind = Literal["camelyon16", "survival", "msi", "hrd", "subtypes", "none"]
PUBLISHED_SOURCE = "self-reported by 1aurent's model cards; aggregator not said"


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """A task: which slides, which table says their labels, and how its cells are read.

    Attributes:
        name: Its name; it is found without ``_prediction`` too.
        title: What it is, in a few words.
        cohorts: Folders of its slides in HistoSSL's layout.
        table: Kind of clinical table, and its folder; ``none`` where the cohort is the label.
        table_names: Words by which the table's file is told from others: every word of one group has its file.
        columns: The table's columns that are read.
        target: What is predicted.
        mapping: Cell, in small letters → class.
        otherwise: Class of every other cell; None leaves it as it is, so that its slides are excluded.
        dropped: Cells, in small letters, whose slides are excluded all the same.
        objective: Loss.
        metric: What was published.
        published: Encoder → (mean, standard deviation) in percent.
    """

    name: str
    title: str
    cohorts: tuple[str, ...]
    table: TableKind
    columns: tuple[str, ...]
    target: Target
    table_names: tuple[tuple[str, ...], ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)
    otherwise: str | None = None
    dropped: frozenset[str] = frozenset()
    objective: str = "bce"
    metric: str = "auroc"
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)


_HRD = {"0": "0", "1": "1", "0.0": "0", "1.0": "1"}
_SUBTYPES = ("BRCA_Basal", "BRCA_Her2", "BRCA_LumA", "BRCA_LumB", "BRCA_Normal")


def _survival(cohort: str, phikon: tuple[float, float] | None, ctranspath: tuple[float, float]) -> TaskDefinition:
    published = {"ctranspath": ctranspath} if phikon is None else {"phikon": phikon, "ctranspath": ctranspath}
    return TaskDefinition(
        name=f"tcga_{cohort}_os_prediction",
        title=f"overall survival, TCGA-{cohort.upper()}",
        cohorts=(f"TCGA_{cohort.upper()}",),
        table="survival",
        table_names=((cohort,),),
        columns=("OS.time", "OS"),
        target=Target("os", "survival", ("OS.time", "OS")),
        objective="cox",
        metric="cindex",
        published=published,
    )


def _msi(name: str, title: str, cohorts: tuple[str, ...], names: tuple[tuple[str, ...], ...]) -> TaskDefinition:
    return TaskDefinition(
        name=f"tcga_{name}_msi_prediction",
        title=f"microsatellite instability, {title}",
        cohorts=cohorts,
        table="msi",
        table_names=names,
        columns=("msi",),
        target=Target("msi", "binary", ("msi",), ("not MSI-H", "MSI-H")),
        mapping={"msi-h": "MSI-H"},
        otherwise="not MSI-H",
        dropped=frozenset({"indeterminate"}),
        published={
            "crc": {"phikon": (91.0, 2.2), "ctranspath": (88.5, 2.3)},
            "stad": {"ctranspath": (83.2, 8.1)},
        }[name],
    )


def _hrd(cohort: str, published: Mapping[str, tuple[float, float]]) -> TaskDefinition:
    return TaskDefinition(
        name=f"tcga_{cohort}_hrd_prediction",
        title=f"homologous recombination deficiency, TCGA-{cohort.upper()}",
        cohorts=(f"TCGA_{cohort.upper()}",),
        table="hrd",
        table_names=((cohort,),),
        columns=("HRD",),
        target=Target("hrd", "binary", ("HRD",), ("0", "1")),
        mapping=_HRD,
        published=published,
    )


def _subtype_of_cohort(
    name: str, title: str, classes: tuple[str, ...], objective: str, published: tuple[float, float]
) -> TaskDefinition:
    return TaskDefinition(
        name=f"tcga_{name}_cancer_subtype_prediction",
        title=title,
        cohorts=tuple(f"TCGA_{name}" for name in classes),
        table="none",
        columns=(),
        target=Target("cancer_subtype", "binary" if len(classes) == 2 else "multiclass", ("cancer_subtype",), classes),
        objective=objective,
        metric="auroc" if len(classes) == 2 else "mean_auroc",
        published={"ctranspath": published},
    )


TASKS: tuple[TaskDefinition, ...] = (
    TaskDefinition(
        name="camelyon16_train_tumor_prediction",
        title="metastasis in lymph nodes, Camelyon16 (269 training slides)",
        cohorts=("CAMELYON16_FULL",),
        table="camelyon16",
        columns=("target",),
        target=Target("tumor", "binary", ("target",), ("Normal", "Tumor")),
        mapping={"tumor": "Tumor"},
        otherwise="Normal",
        published={"phikon": (94.5, 4.4), "ctranspath": (96.3, 2.6)},
    ),
    _msi("crc", "TCGA-COAD and TCGA-READ", ("TCGA_COAD", "TCGA_READ"), (("crc",), ("coad", "read"), ("coadread",))),
    _msi("stad", "TCGA-STAD", ("TCGA_STAD",), (("stad",),)),
    _hrd("ov", {"ctranspath": (69.5, 7.0)}),
    _hrd("brca", {"phikon": (79.3, 2.4), "ctranspath": (77.1, 2.5)}),
    TaskDefinition(
        name="tcga_brca_histological_subtype_prediction",
        title="ductal or lobular carcinoma, TCGA-BRCA",
        cohorts=("TCGA_BRCA",),
        table="subtypes",
        table_names=(("brca",),),
        columns=("Cancer Type Detailed",),
        target=Target("histological_subtype", "binary", ("Cancer Type Detailed",), ("ductal", "lobular")),
        mapping={
            "breast invasive ductal carcinoma": "ductal",
            "breast invasive lobular carcinoma": "lobular",
        },
        published={"phikon": (96.2, 3.3), "ctranspath": (95.8, 0.5)},
    ),
    TaskDefinition(
        name="tcga_brca_molecular_subtype_prediction",
        title="molecular subtype, TCGA-BRCA",
        cohorts=("TCGA_BRCA",),
        table="subtypes",
        table_names=(("brca",),),
        columns=("Subtype",),
        target=Target("molecular_subtype", "multiclass", ("Subtype",), _SUBTYPES),
        mapping={form: name for name in _SUBTYPES for form in (name.lower(), name.removeprefix("BRCA_").lower())},
        objective="cross_entropy",
        metric="mean_auroc",
        published={"phikon": (81.7, 1.6), "ctranspath": (80.8, 1.7)},
    ),
    _subtype_of_cohort(
        "nsclc", "adenocarcinoma or squamous carcinoma, lung, TCGA", ("LUAD", "LUSC"), "bce", (97.3, 0.4)
    ),
    _subtype_of_cohort(
        "rcc", "subtype of renal carcinoma, TCGA", ("KIRC", "KIRP", "KICH"), "cross_entropy", (98.9, 0.2)
    ),
    _survival("brca", (64.7, 5.7), (65.0, 6.0)),
    _survival("coad", (63.4, 7.4), (64.3, 5.4)),
    _survival("luad", None, (59.1, 4.5)),
    _survival("lusc", None, (61.5, 2.9)),
    _survival("paad", None, (59.0, 4.2)),
)
"""In the order of the specification's table."""

ENCODER_NAMES = {"ibotvitbasepancan": "phikon", "phikon": "phikon", "phikon-ibot": "phikon", "ctranspath": "ctranspath"}
"""HistoSSL's and our names of encoders, in small letters → the name under which values were published."""
