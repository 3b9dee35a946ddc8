"""Sources, cleaning, mixtures and packing of the training data."""
