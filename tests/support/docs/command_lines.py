"""Command lines that stand in other files, read as their programs would, without running them."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).parents[3]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELLS = {"", "sh", "bash", "shell", "console"}
_BETWEEN = set("();<>|&")
_MODULE = ["python", "-m", "worker"]


class CommandLine(NamedTuple):
    """One command: its program (`worker`, `valetkey` or `make`) and the words behind it."""

    program: str
    words: list[str]


def documented_commands(text: str) -> Iterator[CommandLine]:
    """Find the commands of ours in a page's fenced code blocks."""
    blocks = [block for language, block in _FENCE.findall(text) if language in _SHELLS]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            for words in _commands(line):
                yield from _ours(words)


def parse_command(command: click.Command, words: Sequence[str]) -> None:
    """Parse words as Click does, through all subcommands. Raises click.UsageError."""
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = command.get_command(click.Context(command), name)
        if found is None:
            raise click.UsageError(f"there is no command {name!r}")
        command = found
    try:
        command.make_context(command.name, rest).close()
    except click.exceptions.Exit:  # --help and --version end it there
        return


def _commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= _BETWEEN:
            yield words
            words = []
        else:
            words.append(word)


def _ours(words: list[str]) -> Iterator[CommandLine]:
    names = [Path(word).name for word in words]
    for place, name in enumerate(names):
        if names[place : place + 3] == _MODULE:
            yield CommandLine("worker", words[place + 3 :])
            return
        if name in {"valetkey", "make"} and all("=" in word for word in words[:place]):
            yield CommandLine(name, words[place + 1 :])
            return
