"""Where tissue is on a slide: published methods by name, one that needs no tuning, quality of tiles."""
