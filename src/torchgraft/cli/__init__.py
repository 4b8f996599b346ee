"""The command line: ``torchgraft transfer | plan | similarity | rank | demo``."""

from torchgraft.cli.app import app, main

__all__ = ["app", "main"]
