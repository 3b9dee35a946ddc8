"""The record of a run: metrics, tables of samples, and what they need from the stage that they belong to."""
