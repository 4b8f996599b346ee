"""The command itself, and what becomes of everything that can go wrong in it."""

from __future__ import annotations

__all__ = ["app", "main"]

import contextlib
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TextIO

import click

from torchgraft import GraftError, __version__
from torchgraft.cli.commands import COMMANDS
from torchgraft.cli.terminal import abandon_stdout, plain, say

_FAILED, _INTERRUPTED, _BROKEN_PIPE, _TERMINATED = 2, 130, 141, 143


class _Terminated(BaseException):
    """The process was asked to end: cleanups run, so that no temporary file stays behind."""


class _App(click.Group):
    """A group whose every failure is one line on stderr and an exit code."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run the command line and exit."""
        extra["standalone_mode"] = False
        with _own_warnings():
            sys.exit(self._guarded(args, prog_name or "torchgraft", extra))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the arguments, which is also when help and version are printed."""
        with _reader_may_leave():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _reader_may_leave():
            return super().invoke(ctx)

    def _guarded(self, args: Sequence[str] | None, prog_name: str, extra: dict[str, Any]) -> int:
        try:
            result = super().main(args, prog_name, **extra)
        except click.UsageError as error:
            where = f" ({error.ctx.command_path} --help explains)" if error.ctx else ""
            return _fail(error.format_message().rstrip(".") + where)
        except click.ClickException as error:
            return _fail(error.format_message())
        except GraftError as error:
            return _fail(error)
        except OSError as error:
            return _fail(f"{error.filename}: {error.strerror}" if error.filename else error)
        except MemoryError:
            return _fail("out of memory: close other programs, or use a machine with more")
        except (KeyboardInterrupt, click.Abort):
            return _INTERRUPTED
        except _Terminated:
            return _TERMINATED
        except SystemExit as error:  # none is raised in here on purpose, so it came out of a python: model
            return _fail(
                f"a model's own code ended the program (exit {error.code}): guard it by __name__ == '__main__'"
            )
        return result if isinstance(result, int) else 0


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """End quietly, as ``head`` expects it, where nobody reads the rest of the output."""
    try:
        yield
    except BrokenPipeError:
        abandon_stdout()
        raise click.exceptions.Exit(_BROKEN_PIPE) from None


def _fail(message: object) -> int:
    say("error", message)
    return _FAILED


@contextlib.contextmanager
def _own_warnings() -> Iterator[None]:
    """Show what the library and the models warn of as single lines; what concerns programmers is left out."""
    told: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = plain(message)
        if issubclass(category, UserWarning) and text not in told:
            told.add(text)
            say("warning", text)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning)
        warnings.showwarning = show
        yield


@click.group(
    name="torchgraft",
    cls=_App,
    invoke_without_command=True,
    commands=dict(COMMANDS),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.pass_context
def app(context: click.Context) -> None:
    """Warm-start any PyTorch network from any trained one, in milliseconds, with no training.

    \b
    First steps:
      torchgraft demo                                     see it work on real digits
      torchgraft plan old.safetensors --target timm:efficientnet_b2
      torchgraft transfer old.safetensors --target timm:efficientnet_b2 -o warm.safetensors
      torchgraft rank --target timm:efficientnet_b2 a.safetensors b.safetensors
      torchgraft verify timm:resnet18 timm:resnet34       does the one compute what the other does?
      torchgraft similarity timm:resnet18 timm:resnet34

    \b
    A model is named by
      timm:NAME                   timm:resnet50,num_classes=10
      torchvision:NAME            torchvision:resnet50,weights=DEFAULT
      hf:FOLDER or hf:OWNER/NAME  a transformers model
      python:MODULE:FACTORY       python:my_package.models:build,width=2

    \b
    A checkpoint is the path of
      *.safetensors, *.pt, *.pth, *.bin, *.ckpt (its pickle is never executed), *.npz,
      the index of a sharded one (*.index.json), or a folder that holds one of these.

    Exit codes: 0 done, 1 not exact (verify), 2 refused with one line on stderr, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run the command ``torchgraft`` on the arguments of the process."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a pipe may know neither arrows nor a file's odd name

    def terminate(number: int, frame: object) -> NoReturn:
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    app()
