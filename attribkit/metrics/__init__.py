"""Metrics: maps to one score per image. A metric is in the table because its file is imported here."""

from .base import METRICS as METRICS
from .base import Metric as Metric
from .base import metric as metric
