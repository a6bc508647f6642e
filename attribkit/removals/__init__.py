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
from .host import Biharmonic as Biharmonic
from .host import NavierStokes as NavierStokes
from .host import Telea as Telea
from .infill import Generator as Generator
from .infill import Harmonic as Harmonic
from .infill import LocalMean as LocalMean
from .infill import NoisyLinear as NoisyLinear
from .infill import PushPull as PushPull
from .layer_masking import LayerMask as LayerMask
