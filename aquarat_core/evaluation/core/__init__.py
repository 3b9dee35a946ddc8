"""CORE: the mean over 22 tasks of the accuracy of a base model above guessing.

The metric is from DataComp-LM (Li et al. 2024, arXiv 2406.11794); the tasks are those of Mosaic's evaluation gauntlet.
"""
