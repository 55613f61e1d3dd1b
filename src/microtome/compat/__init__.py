"""Old scripts and folders of the reference systems, on top of everything."""
