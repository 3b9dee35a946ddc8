"""Running programs that a model wrote: confined, bounded, and judged by a process that they cannot reach.

`run.py` runs a program, `checks.py` runs one against tests. What is confined, by what, and what is not, is in
docs/sandbox.md. The modules `inside`, `landlock`, `seccomp`, `wire` and `judge` also run inside the sandbox, from their
text (`bundle.py`), because the checkout cannot be seen there: they use the standard library and each other only.
"""
