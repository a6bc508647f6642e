"""Attribution methods: model + images + targets -> maps. A method is in the table because its file is imported here."""

from .base import METHODS as METHODS
from .base import Method as Method
from .base import method as method
from .cam import GradCAM as GradCAM
from .controls import CentreMap as CentreMap
from .controls import EdgeMap as EdgeMap
from .controls import RandomMap as RandomMap
from .gradient import Gradient as Gradient
from .gradient import InputXGradient as InputXGradient
from .integrated_gradients import IntegratedGradients as IntegratedGradients
from .integrated_gradients import convergence_delta as convergence_delta
