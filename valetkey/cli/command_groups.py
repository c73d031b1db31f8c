"""The groups of both command lines: commands load when they run, failed output is reported."""

import ast
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO

import click

INTERRUPTED = 130  # 128 plus SIGINT, as shells report it


WORDS = "valetkey.words"
"""The name in Context.meta under which the words of the command line are."""


class OutputFailure(click.ClickException):
    """The output cannot be written: a full disk, for example."""

    exit_code = 5


class CommandGroup(click.Group):
    """Commands that end with a message if stdout cannot be written."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse the command line, which prints help and the release."""
        words = tuple(args)
        with _reported_failures():
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[WORDS] = words
        return context

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _reported_failures():
            return super().invoke(ctx)


@contextmanager
def _reported_failures() -> Iterator[None]:
    """Flush stdout after the block, as long as an error can still be reported, and report it."""
    if sys.stdout is None:
        sys.stdout = _unwritable_stdout()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        raise  # the reader of stdout closed it; Click handles that
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        _discard_stdout()
        raise OutputFailure(describe_os_error(error)) from None
    except OutputFailure:
        _discard_stdout()
        raise


def describe_os_error(error: OSError, out: Path | None = None) -> str:
    """Describe an error of a file, which is `out` or stdout if the error names none."""
    cause = error.strerror or str(error)
    return f"{error.filename or out or 'stdout'}: {cause}"


def _unwritable_stdout() -> TextIO:
    """Return a file whose writes fail: Python has no stdout if the caller closed it (`>&-`)."""
    return open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: PTH123 - a descriptor, until exit


def _discard_stdout() -> None:
    """Discard what is not written yet: Python would try again at exit, and print a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "w") as devnull:  # noqa: PTH123 - only its descriptor
            os.dup2(devnull.fileno(), sys.stdout.fileno())


class LazyGroup(click.Group):
    """A group whose commands are functions of a package, "module:function" by name."""

    def __init__(self, *, package: str, lazy_commands: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._package = package
        self._locations = dict(lazy_commands)
        for name in lazy_commands:  # each stands for the one to be imported
            self.add_command(click.Command(name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported on its first use."""
        if cmd_name in self._locations:
            module, _, attribute = self._locations.pop(cmd_name).partition(":")
            try:
                imported = import_module(f"{self._package}.{module}")
                self.add_command(getattr(imported, attribute), cmd_name)
            except KeyboardInterrupt:
                raise SystemExit(INTERRUPTED) from None
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their one-line helps, and import none of them."""
        for name, location in self._locations.items():
            self.commands[name].help = _read_docstring(self._package, location)
        click.Group(commands=self.commands).format_commands(ctx, formatter)


def _read_docstring(package: str, location: str) -> str | None:
    """Return the docstring of "module:function" from its source."""
    module, _, name = location.partition(":")
    source = files(package).joinpath(f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    functions = (each for each in ast.parse(source).body if isinstance(each, ast.FunctionDef))
    return next(ast.get_docstring(each) for each in functions if each.name == name)
