"""Operations on whole stores: list, verify, copy, collect garbage, compare artifacts, run stages again.

Nothing here decides what bytes a stage makes; the store itself is `aquarat_core.artifacts`.
"""
