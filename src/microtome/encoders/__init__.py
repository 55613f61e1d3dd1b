"""Pixels to vectors: what is known about published encoders, and how they are loaded and run."""
