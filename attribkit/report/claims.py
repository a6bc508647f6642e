"""What a diagnosis says first: one sentence, the claims that stand, and what could not be told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..diagnosis.findings import ORDER, Finding, Test
from ..diagnosis.result import Diagnosis
from ..metrics.attention_iou import AttentionIoU
from ..registry import short
from .cells import Cells, bracketed, cell, chart, even_span, points, row, table
from .scales import share_of, ticks

OPEN = 10  # claims that are shown without being asked for
NAME = 60  # characters of a name in a sentence
FEW = 0.1  # of all answers: an effect that is smaller is no leaning of the model
NAMED = 3  # of them in a sentence
OVERLAP = AttentionIoU.paper


class Kind(NamedTuple):
    """A test in words: its name, what its evidence is, what an effect counts, the section that has its table, and its paper."""

    name: str
    evidence: str
    counts: str
    section: str
    paper: str


KINDS: dict[Test, Kind] = {
    "swap": Kind(
        "parts exchanged",
        "experiment",
        "more of 100 answers change",
        "swaps",
        "Xiao, Engstrom, Ilyas, Madry: Noise or Signal: The Role of Image Backgrounds in Object Recognition, ICLR 2021 (arXiv:2006.09994)",
    ),
    "masking": Kind(
        "parts removed",
        "experiment",
        "more of 100 answers stay than by chance",
        "masking",
        "Sourget et al.: Mask of truth: model sensitivity to unexpected regions of medical images, 2024",
    ),
    "groups": Kind(
        "accuracy by group",
        "answers",
        "fewer of 100 answers are right",
        "groups",
        "Newcombe: Interval estimation for the difference between independent proportions, Statistics in Medicine 1998",
    ),
    "amplification": Kind(
        "bias amplification",
        "answers",
        "more of 100 answers than images",
        "amplification",
        "Wang, Russakovsky: Directional Bias Amplification, ICML 2021 (arXiv:2102.12594); "
        "Zhao, Andrews, Xiang: Men Also Do Laundry: Multi-Attribute Bias Amplification, ICML 2023 (arXiv:2210.11924)",
    ),
    "regions": Kind("maps and regions", "maps", "points of overlap", "regions", OVERLAP),
    "frame": Kind("maps and the border", "maps", "points of the map", "regions", ""),
    "labels": Kind("maps of labels", "maps", "points of overlap", "labels", OVERLAP),
}


def claims_content(diagnosis: Diagnosis, shown: set[str]) -> dict[str, Any]:
    """What the template shows; `shown` are the sections that the page has."""
    findings = diagnosis.findings
    span = even_span([end for each in findings for end in (each.effect, each.low, each.high)])
    said = [
        _claim(diagnosis, at, each, shown) | {"chart": chart(each.effect, (each.low, each.high), span)} for at, each in enumerate(findings)
    ]
    limits = {KINDS[test].name: [each.reason for each in diagnosis.limits if each.test == test] for test in ORDER}
    return {
        "headline": headline(diagnosis),
        "more": _more(diagnosis),
        "claims": said[:OPEN],
        "folded": said[OPEN:],
        "total": len(diagnosis.claims),
        "ticks": [{"at": f"{share_of(tick, span):.2f}%", "text": points(tick)} for tick in ticks(*span, most=6)],
        "limits": {name: list(dict.fromkeys(reasons)) for name, reasons in limits.items() if reasons},
    }


def _claim(diagnosis: Diagnosis, at: int, each: Finding, shown: set[str]) -> dict[str, Any]:
    kind = KINDS[each.test]
    pictures = len(diagnosis.pictures[at]) if at < len(diagnosis.pictures) else 0
    return {
        "number": at + 1,
        "claim": each.claim,
        "test": kind.name,
        "evidence": kind.evidence,
        "section": kind.section if kind.section in shown else "",
        "effect": points(each.effect),
        "counts": kind.counts,
        "interval": interval(each),
        "count": each.count,
        "p": chance_of(each.corrected),
        "pictures": pictures,
        "how": each.how,
    }


def interval(each: Finding) -> str:
    """The 95 % interval of an effect, in hundredths."""
    return f"{points(each.low)} to {points(each.high)}" if math.isfinite(each.low) and math.isfinite(each.high) else ""


def chance_of(p: float) -> str:
    """A p-value for people."""
    if not math.isfinite(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


# Sentences


def headline(diagnosis: Diagnosis) -> str:
    """How many claims stand, and what the strongest of them say."""
    found, total = len(diagnosis.findings), len(diagnosis.claims)
    if not total:
        return "Nothing could be tested, for the reasons given below."
    if not found:
        return f"None of {total} claim{'s' * (total != 1)} stands: no test shows that the model leans on something that it should not."
    parts = _parts(diagnosis.findings)
    return f"{found} of {total} claim{'s' * (total != 1)} stand{'s' * (found == 1)}: {parts[0]}."


def _more(diagnosis: Diagnosis) -> list[str]:
    """The other sentences: what else was found, what was tested, and what that does not say."""
    said = [f"{each[0].upper()}{each[1:]}." for each in _parts(diagnosis.findings)[1:]]
    counts = Counter(each.test for each in diagnosis.claims)
    if counts:
        tested = _joined([f"{KINDS[test].name} ({counts[test]} claim{'s' * (counts[test] != 1)})" for test in ORDER if counts[test]])
        said.append(f"Tested: {tested}.")
        if not diagnosis.findings:
            said.append(
                "This is no proof that the model is right for the right reasons: small effects, and what was not tested, stay unseen."
            )
    missing = list(dict.fromkeys(KINDS[test].name for test in ORDER if not counts[test]))
    if missing:
        said.append(f"Not tested: {_joined(missing)}.")
    return said


def _parts(findings: Sequence[Finding]) -> list[str]:
    """What stands, in a clause for each kind of evidence, the strongest first."""

    def cues(*tests: Test) -> list[str]:
        return list(dict.fromkeys(each.cue for each in findings if each.test in tests))

    parts = []
    sizes: dict[str, float] = {}
    for each in findings:
        if each.test in ("swap", "masking"):
            sizes[each.cue] = max(sizes.get(each.cue, 0.0), each.effect)
    if much := [cue for cue, size in sizes.items() if size >= FEW]:
        parts.append(f"experiments show that the model leans on {_names(map(_thing, much))}")
    if little := [cue for cue in sizes if cue not in much]:
        share = max(1, round(100 * max(sizes[cue] for cue in little)))
        parts.append(f"experiments show that few answers, {share} of 100, hang on {_names(map(_thing, little))}")
    worse = [each for each in findings if each.test == "groups"]
    if worse:
        which = "one group of images is" if len(worse) == 1 else f"{len(worse)} groups of images are"
        parts.append(f"{which} answered right less often than the rest of their class (by {_names(cues('groups'))})")
    if followed := cues("amplification"):
        parts.append(f"answers exaggerate what goes together with {_names(followed)}")
    if maps := cues("regions", "frame"):
        parts.append(f"maps are not where they should be ({_names(maps)}), which suggests a cause and proves none")
    if labels := cues("labels"):
        parts.append(f"maps of {_names(labels)} overlap those of the protected label more than others do")
    return parts


def _thing(cue: str) -> str:
    return f"what lies {cue}" if cue.startswith("outside ") else f"the {cue}"


def _names(names: Iterable[str]) -> str:
    every = [short(" ".join(each.split()), NAME) for each in names]
    return _joined([*every[:NAMED], *([f"{len(every) - NAMED} more"] if len(every) > NAMED else [])])


def _joined(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


# All claims


def others(diagnosis: Diagnosis) -> list[Cells]:
    """The claims that were tested and do not stand, as a folded table."""
    found = [each for each in diagnosis.claims if not each.found]
    span = even_span([end for each in found for end in (each.effect, each.low, each.high)])
    body = [
        row(
            each.claim,
            [
                cell(KINDS[each.test].name, value=KINDS[each.test].name),
                cell(
                    points(each.effect),
                    bracketed(each.low, each.high, points),
                    value=each.effect,
                    title=f"{KINDS[each.test].counts}; {each.how}",
                    chart=chart(each.effect, (each.low, each.high), span, chance=0.0),
                ),
                cell(chance_of(each.corrected), value=each.corrected),
                cell(each.count, value=each.count),
            ],
        )
        for each in found
    ]
    heads = ["Claim", "Test", "Effect, points", "Corrected p", "Images"]
    words = "1 claim that was tested and does not stand" if len(body) == 1 else f"{len(body)} claims that were tested and do not stand"
    return [table("Claims that do not stand", heads, body, folded=words)] if body else []
