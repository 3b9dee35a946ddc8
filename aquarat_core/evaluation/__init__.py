"""How good a checkpoint is, and how certain that result is: statistics, records, summaries, plots and reports."""
