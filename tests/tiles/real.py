"""Real slides of the reference data, by the name that a reference case gives."""

from microtome.slides.open import open_slide


def open_by_name(shared, name):
    return open_slide(next((shared / "data" / "wsi").rglob(name)))
