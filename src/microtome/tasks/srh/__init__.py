"""Stimulated Raman histology: what there is to score, scoring it, tables, pictures, model files."""
