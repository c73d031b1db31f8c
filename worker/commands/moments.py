"""Moments as operators write them."""

from datetime import datetime

import click

from worker.adapters.clock import now
from worker.core.measures import moment


def read_moment(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> datetime | None:
    """Read an option: 2h, 2d ago, 2026-11-24 or 2026-11-24T08:30. Use it as its callback."""
    try:
        return None if text is None else moment(text, now())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
