"""What is done over many slides: the main job, its stages, clusters and pictures of features."""
