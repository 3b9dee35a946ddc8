"""The live page: running and recent stages, read from their job folders in the store."""
