"""The chain of reports that notebooks read."""

from tests.evaluation.conftest import chain

__all__ = ["chain"]
