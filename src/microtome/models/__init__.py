"""Plain ``nn.Module``s: aggregators, slide encoders, detectors, losses. No I/O."""
