"""Who the slides belong to: the table of slides, targets, splits by patient, predictions."""

from microtome.cohort.table import MISSING, SLIDE_COLUMNS, SYNONYMS, Cohort, CohortSlide, read_cohort, write_cohort

__all__ = ["MISSING", "SLIDE_COLUMNS", "SYNONYMS", "Cohort", "CohortSlide", "read_cohort", "write_cohort"]
