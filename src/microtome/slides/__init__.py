"""Open slides and read their pixels; how they are opened is in ``open``, what a slide is in ``base``."""
