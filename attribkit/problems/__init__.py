"""Problems: where something is known. A problem is in the table because its file is imported here."""

from .base import PROBLEMS as PROBLEMS
from .base import Problem as Problem
from .disconnected import Disconnected as Disconnected
from .grid import Grid as Grid
from .labelled import Labelled as Labelled
from .planted import Planted as Planted
from .scenes import Scenes as Scenes
from .scenes import draw as draw
