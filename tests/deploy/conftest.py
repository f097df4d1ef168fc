"""What the tests of docs/deploy share."""

from tests.support.program import path, program, rows

__all__ = ["path", "program", "rows"]
