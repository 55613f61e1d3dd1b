"""Published encoders, one file per family: cards, how networks are built, how files name things. Data; no torch."""
