"""Diagnosing: a model asked about images, about parts of them and with parts exchanged, until findings can be made of its answers."""

from .calls import diagnose as diagnose
