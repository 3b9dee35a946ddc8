"""The stages of the chain. Each has one typed config, named input artifacts and one output artifact."""
