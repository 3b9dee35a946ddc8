"""What is done to stores as a whole: looking through them, copying out of them, clearing them, running stages again.

Nothing here decides what bytes a stage makes; the store itself is `aquarat_core.artifacts`.
"""
