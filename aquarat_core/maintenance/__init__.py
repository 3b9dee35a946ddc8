"""Operations on whole stores: list, verify, copy, collect garbage, compare artifacts, reproduce stages.

Nothing here affects the bytes that a stage produces; the store itself is `aquarat_core.artifacts`.
"""
