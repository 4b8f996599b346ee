"""What the command line prints: results on stdout, everything else on stderr."""

from __future__ import annotations

__all__ = [
    "Progress",
    "abandon_stdout",
    "aligned",
    "emit",
    "plain",
    "progress",
    "results",
    "say",
    "spoken",
    "stdout_console",
]

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import IO, final

import click
from rich import progress as bars
from rich.console import Console, RenderableType
from rich.text import Text

# Wide enough for the longest tensor name, so that no line of a pipe is cut or folded.
_PIPE_WIDTH = 2000
_STYLES = {"error": "bold red", "warning": "bold yellow"}


def plain(text: object) -> str:
    """Return a text as one line without control characters, whatever a file's names put into it.

    >>> plain("a\\n  b \\x1b[2J")
    'a b \\\\x1b[2J'
    """
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def aligned(text: str) -> str:
    """Keep the spaces of a table, and take out what a terminal would obey."""
    return "".join(one for one in text if one.isprintable())


def spoken(text: str) -> str:
    """Name the options of the command line where the library names its arguments.

    >>> spoken("the target runs on no input that was guessed: pass inputs=")
    'the target runs on no input that was guessed: pass --input-shape'
    """
    return text.replace("pass inputs=", "pass --input-shape")


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


@final
class _Stdout(Console):
    """A console on stdout that leaves a closed pipe to the command line, where rich would end the program."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def stdout_console(file: IO[str] | None = None) -> Console:
    """Return a console as wide as the terminal that stdout is, or wide enough for everything in a pipe.

    What it prints goes to stdout, or to ``file``, laid out and coloured as for stdout.
    """
    terminal = _is_terminal(sys.stdout)
    return _Stdout(
        file=file,
        force_terminal=terminal or None,
        width=None if terminal else _PIPE_WIDTH,
        highlight=False,
        emoji=False,
    )


def results(*parts: RenderableType) -> None:
    """Print tables and lines on stdout; lines are left unwrapped and are never read as markup."""
    text = io.StringIO()
    console = stdout_console(text)
    for part in parts:
        line = isinstance(part, str)
        console.print(part, markup=not line, soft_wrap=line)
    emit("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))


def emit(text: str) -> None:
    """Write a text to stdout at once, so that a full disk or a closed pipe shows here and not at the exit.

    Raises:
        BrokenPipeError: whoever read it is gone.
        OSError: it cannot be written; ``filename`` says that it was stdout.
    """
    try:
        click.echo(text, nl=False, color=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_stdout()
        raise OSError(error.errno, error.strerror, "standard output") from None


def abandon_stdout() -> None:
    """Point stdout at nothing: what is left in its buffer would fail again, and loudly, at the exit."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def say(kind: str, message: object) -> None:
    """Write one line to stderr: ``torchgraft: error: ...`` (or ``warning``)."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=_is_terminal(sys.stderr) or None, highlight=False, emoji=False)
    console.print(Text.assemble("torchgraft: ", (f"{kind}: ", _STYLES[kind]), spoken(plain(message))), soft_wrap=True)
    with contextlib.suppress(OSError):  # nobody is left to be told
        click.echo(text.getvalue(), nl=False, err=True, color=True)


@final
class Progress:
    """One line on the terminal that says what is being done, with a bar where the end is known."""

    def __init__(self, shown: bars.Progress) -> None:
        self._shown = shown
        self._task = shown.add_task("", total=None)

    def begin(self, what: str, total: int | None = None) -> None:
        """Start a step of ``total`` parts, or of unknown length."""
        self._shown.reset(self._task, description=plain(what), total=total)

    def advance(self, path: str) -> None:
        """Count one part as done."""
        self._shown.advance(self._task)


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Show progress on stderr while the block runs, on a terminal alone, and leave no trace of it.

    Whatever foreign code prints meanwhile goes to stderr, for stdout belongs to the result.
    """
    shown = bars.Progress(
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        disable=quiet or not _is_terminal(sys.stderr),
    )
    # Before rich 15 a disabled progress bar still prints an empty line when it stops.
    with contextlib.nullcontext() if shown.disable else shown, contextlib.redirect_stdout(sys.stderr):
        yield Progress(shown)
