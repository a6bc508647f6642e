"""Evaluating: problems x methods x metrics -> `Scores`, in one process or several, in memory or as a run on disk."""

from .calls import evaluate as evaluate
