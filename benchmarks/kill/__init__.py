"""Kills running stages on purpose and compares their results with an uninterrupted run.

`worker.py` runs stages in children that it forks, each of which can be told where to die; `chain.py` drives it.
"""
