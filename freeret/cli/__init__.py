"""The command line: one file for each group of commands."""

from freeret.cli.app import app, main

__all__ = ["app", "main"]
