"""The command line: one file per group of verbs, each a thin call of the function of the same name."""

from microtome.cli.app import main

__all__ = ["main"]
