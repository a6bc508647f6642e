"""What a run is asked to do, as plain values: from a file, from the command line, from the record that a run keeps of itself."""

from .base import Configuration as Configuration
from .base import Execution as Execution
from .building import build as build
from .reading import configured as configured
from .reading import overridden as overridden
from .reading import read_configuration as read_configuration
from .texts import class_names as class_names
