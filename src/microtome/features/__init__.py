"""Features: bags, stores of them, and the extraction loop, each imported from its own module."""
