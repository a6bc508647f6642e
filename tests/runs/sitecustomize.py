"""Python imports this at its start where this folder is on its path: so that worker processes know the method of these tests."""

import os

if os.environ.get("ATTRIBKIT_TEST_METHODS"):
    import stubborn  # noqa: F401 - it enters its method in the table
