"""Python imports this at its start where this folder is on its path: so that worker processes know the method of these tests."""

import importlib.abc
import importlib.util
import os
import sys


class Methods(importlib.abc.MetaPathFinder):
    """Enters the method in the table as soon as a process imports that; others, such as those that Ray keeps, need no torch."""

    def find_spec(self, fullname, path, target=None):
        if fullname != "attribkit.methods":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        whole = spec.loader.exec_module

        def with_ours(module):
            whole(module)
            import stubborn  # noqa: F401 - it enters its method in the table

        spec.loader.exec_module = with_ours
        return spec


if os.environ.get("ATTRIBKIT_TEST_METHODS"):
    sys.meta_path.insert(0, Methods())
