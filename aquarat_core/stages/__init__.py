"""The stages of the chain: one typed config, named input artifacts, one output artifact each."""
