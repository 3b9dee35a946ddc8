"""Tasks of lm-evaluation-harness, asked of our models: the program `lm_eval` counts, our scorer and engine answer.

Nothing here imports `lm_eval` when it is imported: the program is an optional dependency (`running.lm_eval`).
"""
