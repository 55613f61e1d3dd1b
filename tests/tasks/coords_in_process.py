"""Extracts features in HistoSSL's layout in a process of its own that dies at a batch. Arguments: slides, coords, out,
the batch at which to die (0 for none)."""

import os
import sys
from unittest.mock import patch

from microtome.config import ExtractConfig
from microtome.storage import QuietProgress
from microtome.tasks.run import run
from tests.features.fakes import Means


class Dying(Means):
    def __init__(self, last):
        super().__init__()
        self.last = last

    def encode(self, images):
        if len(self.shapes) + 1 == self.last:
            os._exit(9)
        return super().encode(images)


def main(slides, coords, out, last):
    values = {"slides": (slides,), "coords": coords, "out": out, "layout": "histossl", "tile_px": 64, "batch_size": 4}
    with patch("microtome.tasks.run.load_encoder", return_value=Dying(int(last))):
        result = run(ExtractConfig(quiet=True, workers=2, **values), progress=QuietProgress())
    sys.exit(len(result.record.failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
