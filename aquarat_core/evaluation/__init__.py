"""How good a checkpoint is, and how sure one may be of it: statistics, records, summaries, plots and reports."""
