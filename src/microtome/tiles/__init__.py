"""Where tiles lie on a slide, and sources that hand out their pixels."""
