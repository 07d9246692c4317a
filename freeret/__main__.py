"""`python -m freeret` is the command `freeret`."""

from freeret.cli import main

main()
