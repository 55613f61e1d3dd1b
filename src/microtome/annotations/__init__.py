"""A person's polygons: read and written as GeoJSON, turned into masks and made from them."""
