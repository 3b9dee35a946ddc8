"""AQuA-RAT: word problems with five options, a rationale and one right letter (Ling et al. 2017, arXiv 1705.04146).

Everything that knows this data set is here: the question and its files, the cleaning of the published rows, the
generator of questions in the same form, and the task that training and evaluation work with.
"""
