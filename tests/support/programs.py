"""Programs that tests need and developers may lack."""

import os
import shutil

import pytest


def program(variable: str, name: str) -> str:
    """Return the path of a program, or skip the test if it is not installed.

    Args:
        variable: Environment variable that makes a missing program a failure. Its value is 1 or a path.
        name: Name of the program.
    """
    wanted = os.environ.get(variable, "")
    name = name if wanted in {"", "1"} else wanted
    found = shutil.which(name)
    if found is None and wanted:
        pytest.fail(f"{variable} is set, but there is no {name}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
