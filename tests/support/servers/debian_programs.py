"""Programs of Debian: those of the machine, or those that `make browser` installed."""

from tests.support.scope import skip_without
from tools.browser import debian_program


def find_program(name: str) -> str:
    """Return the path of a program, or skip the test."""
    path = debian_program(name)
    if path is None:
        skip_without(f"what {name} checks", "make browser")
    return path
