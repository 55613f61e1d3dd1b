"""How good results are: agreement with labels and outlines, with intervals by patient. Needs no torch."""
