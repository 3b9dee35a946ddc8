"""Runs programs that a model wrote: confined, with limits, and judged by a process that they cannot reach.

`run.py` runs a program, `checks.py` tests one. docs/sandbox.md says what is confined, by what, and what is not. The
modules `inside`, `landlock`, `seccomp`, `wire` and `judge` also run inside the sandbox, from their source text
(`bundle.py`), because the checkout is not visible there. They only import the standard library and each other.
"""
