"""The console for messages and progress, which also commands use that print no results."""

from rich.console import Console


def stderr_console() -> Console:
    """Return a console for stderr that prints foreign text without interpreting it as markup."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False)
