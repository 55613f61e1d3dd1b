"""Synthetic slides that look like H&E, with known tissue and tumour: one to read from, or a folder of files."""

from microtome.testing.synthetic_sample import SampleSlide, write_sample
from microtome.testing.synthetic_section import SyntheticSlide, synthetic_slide

__all__ = ["SampleSlide", "SyntheticSlide", "synthetic_slide", "write_sample"]
