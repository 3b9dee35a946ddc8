"""The two files that a release carries where transformers has no class for its model. Nothing here imports them."""
