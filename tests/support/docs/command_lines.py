"""Finds the command lines in documentation, and parses them without running them."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).parents[3]
_CODE_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL_LANGUAGES = {"", "sh", "bash", "shell", "console"}
_SEPARATORS = set("();<>|&")
_COMPOSE_RUN = ["docker", "compose", "run"]
_WORKER_MODULE = ["python", "-m", "worker"]


class CommandLine(NamedTuple):
    """One command: its program (`worker`, `valetkey` or `make`) and its arguments."""

    program: str
    words: list[str]


def documented_commands(text: str) -> Iterator[CommandLine]:
    """Yield the commands of this project in the fenced code blocks of a Markdown page."""
    for language, block in _CODE_BLOCK.findall(text):
        if language in _SHELL_LANGUAGES:
            for line in block.replace("\\\n", " ").splitlines():
                for words in _split_commands(line):
                    yield from _project_commands(words)


def _split_commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= _SEPARATORS:
            yield words
            words = []
        else:
            words.append(word)


def _project_commands(words: list[str]) -> Iterator[CommandLine]:
    names = [Path(word).name for word in words]
    for index, name in enumerate(names):
        if names[index : index + 3] == _WORKER_MODULE:
            yield CommandLine("worker", words[index + 3 :])
            return
        is_first = all("=" in word for word in words[:index])
        if name in {"valetkey", "make"} and (is_first or words[:3] == _COMPOSE_RUN):
            yield CommandLine(name, words[index + 1 :])
            return


def parse_command(command: click.Command, words: Sequence[str]) -> None:
    """Parse arguments as Click does, through all subcommands. Raises click.UsageError."""
    arguments = list(words)
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        subcommand = command.get_command(click.Context(command), name)
        if subcommand is None:
            raise click.UsageError(f"there is no command {name!r}")
        command = subcommand
    try:
        command.make_context(command.name, arguments).close()
    except click.exceptions.Exit:  # --help and --version end the parsing
        return
