"""What was run, and by whose papers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .page import About

_DATED = re.compile(r"\b(19|20)\d\d\b|arXiv:|https?://")


def used(about: About, kinds: tuple[str, str] = ("Method", "Metric")) -> dict[str, Any]:
    """What the template shows: methods and metrics, called as `kinds` says, with the numbers of their papers, each of which is listed once.

    A `paper` may name several, one after another with "; " between them; what has no year and no address is a remark.
    """
    papers: dict[str, int] = {}
    rows = {kind: [_row(entry, papers) for entry in entries] for kind, entries in zip(kinds, (about.methods, about.metrics), strict=True)}
    return {"about": about, "used": list(rows.items()), "papers": list(papers)}


def _row(entry: Sequence[str], papers: dict[str, int]) -> dict[str, Any]:
    name, settings, paper = entry
    parts = [part.strip() for part in paper.split("; ") if part.strip()]
    cited = [part for part in parts if _DATED.search(part)]
    numbers = [papers.setdefault(part, len(papers) + 1) for part in cited]
    return {"name": name, "settings": settings, "papers": numbers, "note": "; ".join(part for part in parts if part not in cited)}
