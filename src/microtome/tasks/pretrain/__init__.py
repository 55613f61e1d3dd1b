"""Training of the networks for stimulated Raman histology: patches, slides, scores."""
