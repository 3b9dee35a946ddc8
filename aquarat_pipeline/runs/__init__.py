"""Checks, starts, executes, resumes, cancels and watches runs."""
