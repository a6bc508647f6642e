"""Taking pixels away: what an image becomes where nothing of it is kept."""

from .fill import FILLS as FILLS
from .fill import Fill as Fill
from .fill import fill as fill
