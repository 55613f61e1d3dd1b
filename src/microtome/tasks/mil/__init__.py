"""Models on bags of features: nested cross-validation, fitting, predicting, explaining."""
