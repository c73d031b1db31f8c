"""Rows for people and for programs: an aligned table, JSON lines, or CSV for a spreadsheet."""

import csv
import io
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import click
from rich.cells import cell_len

Form = Literal["table", "json", "csv"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def form_options[**P, R](command: Callable[P, R]) -> Callable[P, R]:
    ...
