"""From a slide to its features, step by step, on a synthetic slide."""

import tempfile
from pathlib import Path

import microtome
from microtome.testing.synthetic import write_sample


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    (sample,) = write_sample(folder / "slides", n_slides=1, size_px=2048, kinds=("svs",))

    with microtome.open_slide(sample.path) as slide:
        print(f"{slide.name}: {slide.size.width} × {slide.size.height} px, {slide.mpp} µm/px ({slide.mpp_source})")
        tissue = microtome.find_tissue(slide)
        print(f"tissue: {tissue.area_mm2:.2f} mm²")
        tiles = microtome.lay_tiles(slide, tissue, microtome.Grid(tile_px=224, mpp=0.5))
        source = microtome.SlideTiles(slide, tiles, sample.slide_id)
        store = microtome.FeatureStore(folder / "features")
        microtome.extract(source, microtome.load_encoder("texture"), store)

    bag = store[sample.slide_id]
    print(f"features: {bag.features.shape}, first tile at {bag.coords[0]}")


if __name__ == "__main__":
    main()
