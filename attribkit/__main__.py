"""`python -m attribkit`."""

from .cli import main

main()
