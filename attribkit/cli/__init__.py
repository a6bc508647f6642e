"""The command line: arguments to calls, and the only place that prints."""

from .main import attribkit as attribkit
from .main import main as main
