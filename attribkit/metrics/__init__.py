"""Metrics: maps to one score per image. A metric is in the table because its file is imported here."""

from .base import METRICS as METRICS
from .base import Metric as Metric
from .base import metric as metric
from .completeness import CompletenessGap as CompletenessGap
from .completeness import completeness_gap as completeness_gap
from .infidelity import Infidelity as Infidelity
from .infidelity import infidelity as infidelity
from .sensitivity_n import SensitivityN as SensitivityN
from .sensitivity_n import sensitivity_n as sensitivity_n
from .stability import NoiseStability as NoiseStability
from .stability import SensitivityMax as SensitivityMax
from .stability import map_correlation as map_correlation
from .stability import relative_change as relative_change
