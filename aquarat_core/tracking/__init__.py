"""The record of a run: metrics, tables of samples, and the context that the stage around the run provides."""
