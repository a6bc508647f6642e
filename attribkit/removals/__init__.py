"""Taking pixels away: what would the model say without them? A removal is in the table because its file is imported here."""

from .base import REMOVALS as REMOVALS
from .base import Fill as Fill
from .base import InFill as InFill
from .base import Removal as Removal
from .base import composite as composite
from .fill import FILLS as FILLS
from .fill import Blur as Blur
from .fill import Constant as Constant
from .fill import FillKind as FillKind
from .fill import ImageMean as ImageMean
from .fill import Noise as Noise
from .fill import RandomColour as RandomColour
from .fill import fill as fill
