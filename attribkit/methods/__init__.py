"""Attribution methods: model + images + targets -> maps. A method is in the table because its file is imported here."""

from .base import METHODS as METHODS
from .base import Method as Method
from .base import method as method
from .cam import GradCAM as GradCAM
from .cam import GradCAMPlusPlus as GradCAMPlusPlus
from .cam import HiResCAM as HiResCAM
from .cam import LayerCAM as LayerCAM
from .cam import XGradCAM as XGradCAM
from .captum import Captum as Captum
from .controls import CentreMap as CentreMap
from .controls import EdgeMap as EdgeMap
from .controls import RandomMap as RandomMap
from .counterfactual_infill import CounterfactualInfill as CounterfactualInfill
from .gradient import Gradient as Gradient
from .gradient import InputXGradient as InputXGradient
from .integrated_gradients import IntegratedGradients as IntegratedGradients
from .integrated_gradients import convergence_delta as convergence_delta
from .perturbation import RISE as RISE
from .perturbation import Occlusion as Occlusion
from .pytorch_grad_cam import PytorchGradCAM as PytorchGradCAM
from .region_removal import LayerMasking as LayerMasking
from .region_removal import RegionRemoval as RegionRemoval
from .wrappers import AtLayer as AtLayer
from .wrappers import GaussianSmooth as GaussianSmooth
from .wrappers import Smooth as Smooth
from .xrai import XRAI as XRAI
