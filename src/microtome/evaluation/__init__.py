"""How good results are: agreement with labels and outlines."""
