"""The record of a run: metrics, tables of samples, and what they ask of the stage that they belong to."""
