"""Sweeps: many chains that differ in a few fields, planned together, made one after another, compared in the end."""
