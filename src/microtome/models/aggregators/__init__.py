"""Aggregators: a bag of tile vectors to logits. Registry in ``registry``, one file per published model."""
