from . import methods as methods
from . import model as model
from . import problems as problems
from . import removals as removals
from . import report as report
from .attribution import Attribution as Attribution
from .batch import Batch as Batch
from .batch import Targets as Targets
from .errors import AttribkitError as AttribkitError
from .errors import BadInput as BadInput
from .errors import BrokenFile as BrokenFile
from .errors import BrokenImage as BrokenImage
from .errors import BrokenWeights as BrokenWeights
from .errors import OutOfMemory as OutOfMemory
from .errors import Unavailable as Unavailable
from .errors import UnknownName as UnknownName
from .errors import Unsupported as Unsupported
from .explaining import explain as explain
from .explaining import load_images as load_images
from .images import Preprocessing as Preprocessing
from .methods import METHODS as METHODS
from .model.adapter import VisionModel as VisionModel
from .model.zoo import load_model as load_model
from .problems import PROBLEMS as PROBLEMS

__version__: str
