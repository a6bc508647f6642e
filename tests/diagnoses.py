"""A made-up diagnosis: the answers of a model that goes by the place and not by the thing, judged by the real tests; seeded."""

import math

import numpy as np
import torch

from attribkit import Batch, Scores, Targets
from attribkit.diagnosis.amplification import amplified
from attribkit.diagnosis.answers import Answers, Donors, Swap, Version
from attribkit.diagnosis.findings import judged, ranked
from attribkit.diagnosis.groups import grouped
from attribkit.diagnosis.labels import compared
from attribkit.diagnosis.masking import VERSIONS, masked
from attribkit.diagnosis.regions import Overlap, looked
from attribkit.diagnosis.result import Diagnosis, MeanMap, Picture
from attribkit.diagnosis.swaps import swapped
from attribkit.scores import Key

REGIONS = ("object", "background")


def drawn(draw, side=48):
    """A square of one colour on a ground of another, and where it is."""
    image = torch.rand(3, 1, 1, generator=draw) * torch.ones(3, side, side) * 0.7
    image += 0.15 * torch.rand(3, side, side, generator=draw)
    inside = torch.zeros(side, side)
    at = torch.randint(4, side // 2, (2,), generator=draw).tolist()
    inside[at[0] : at[0] + side // 3, at[1] : at[1] + side // 3] = 1
    colour = torch.rand(3, 1, 1, generator=draw)
    return torch.where(inside > 0, colour, image).clamp(0, 1), inside


def answers_of(count, names, *, masks=True, shortcut=0.9, seed=0):
    """Answers that are the place in `shortcut` of the images, whose class is the place in most of them."""
    draw = np.random.default_rng(seed)
    classes, (by, labels) = tuple(names["classes"]), names["group"]
    truth = draw.integers(0, len(classes), count)
    place = np.where(draw.random(count) < 0.8, truth, draw.integers(0, len(classes), count)) % len(labels)
    by_place = place % len(classes)
    full = np.where(draw.random(count) < shortcut, by_place, truth)
    noise = draw.integers(0, len(classes), count)
    groups = {by: np.array([labels[each] for each in place], object)}

    def version(share):
        found = np.where(draw.random(count) < share, full, noise)
        return Version(found, np.eye(len(classes), dtype=np.float32)[found] * 0.8 + 0.2 * draw.random((count, 1), dtype=np.float32))

    shares = {"full": 1, "region removed": 0.9, "region only": 0.3, "box removed": 0.88, "box only": 0.35}
    shares |= {"shifted removed": 0.97, "shifted only": 0.3}
    versions = {name: version(shares[name]) for name in VERSIONS} if masks else {"full": Version(full)}
    ids = tuple(f"{names['file']}{row:04d}" for row in range(count))
    swaps, donors = (), None
    if masks:
        images, given = np.repeat(np.arange(count), 4), draw.integers(0, count, 4 * count)
        given = np.where(given == images, (given + 1) % count, given)
        follow = draw.random(4 * count) < shortcut
        ground = Swap(names["regions"][1], images, given, np.where(follow, by_place[given], full[images]))
        thing = Swap(names["regions"][0], images, given, np.where(draw.random(4 * count) < 0.05, full[given], full[images]))
        swaps, donors = (ground, thing), Donors(ids, full, groups)
    region = names["regions"][0] if masks else None
    return Answers(ids, classes, truth, groups, versions, region, np.ones(count, bool) if masks else None, swaps, donors)


def overlaps_of(answers, names, draw):
    found = []
    for region, level, uniform in ((names["regions"][0], 0.3, 0.45), (names["regions"][1], 0.8, 0.7)):
        scores = np.clip(level + 0.1 * draw.standard_normal(len(answers)), 0, 1)
        found.append(Overlap(region, scores, np.full(len(answers), uniform), np.full(len(answers), uniform - 0.05)))
    return found


NAMES = {
    "classes": ["landbird", "waterbird", "seabird"],
    "group": ("background", ["forest", "lake", "sea"]),
    "regions": REGIONS,
    "file": "birds/",
    "model": "planted/shortcut-95",
    "labels": ["beak", "wing", "tail", "water"],
    "method": "GradCAM()",
    "removal": "LayerMask()",
}


def hostile(name):
    """Everything that has a name is called `name`, and told apart by a number where it must be."""
    several = [name, f"{name} 2", f"{name} 3"]
    return NAMES | {
        "classes": several,
        "group": (f"{name} by", several),
        "regions": (f"{name} region", f"{name} ground"),
        "file": name,
        "model": name,
        "labels": [*several, f"{name} 4"],
        "method": name,
        "removal": name,
    }


def scores_of(answers, overlaps, names):
    """What every image scored."""
    scores = Scores()
    group = names["group"][0]
    codes = {each: code for code, each in enumerate(names["group"][1])}
    labels = torch.tensor([codes[each] for each in answers.groups[group]])
    targets = Targets(torch.as_tensor(answers.full))
    batch = Batch(torch.zeros(len(answers), 3, 2, 2), targets, answers.ids, {}, {group: labels})
    for each in overlaps:
        key = Key("planted()", names["model"], names["method"], f"AttentionIoU(region='{each.region}')")
        scores.add(key, batch, torch.as_tensor(each.scores).float(), chances=torch.as_tensor(each.uniform).float())
    scores.name_groups(key, {group: list(codes)}) if overlaps else None
    return scores


def pictures_of(findings, names, draw, *, maps=True, each=None):
    made = []
    for finding in findings:
        mine = []
        for name in finding.images[:each]:
            image, inside = drawn(draw)
            map_ = torch.rand(7, 7, generator=draw) - 0.2 if maps else None
            regions = {names["regions"][0]: inside, names["regions"][1]: 1 - inside}
            mine.append(Picture(name, f"answered {names['classes'][0]}, is {names['classes'][1]}", image, map_, regions))
        made.append(tuple(mine))
    return tuple(made)


def diagnosis(count=240, names=NAMES, *, masks=True, shortcut=0.9, seed=0, each=None):
    """All of it."""
    answers = answers_of(count, names, masks=masks, shortcut=shortcut, seed=seed)
    draw, torch_draw = np.random.default_rng(seed + 1), torch.Generator().manual_seed(seed)
    overlaps = overlaps_of(answers, names, draw) if masks else []
    border = Overlap(
        "image border", np.clip(0.4 + 0.1 * draw.standard_normal(count), 0, 1), np.full(count, 0.4375), np.full(count, math.nan)
    )
    pairs = np.clip(0.3 + 0.1 * draw.standard_normal((count, 4, 4)), 0, 1)
    pairs[:, 1, 3] = pairs[:, 3, 1] = np.clip(pairs[:, 1, 3] + 0.3, 0, 1)
    found = [grouped(answers), masked(answers), swapped(answers), amplified(answers, None), looked(answers, overlaps, [border])]
    found.append(compared(answers, tuple(names["labels"]), pairs if masks else None, names["labels"][3] if masks else None))
    groups, versions, swaps, amplification, regions, labels = found
    claims = judged([claim for part in found for claim in part.claims])
    findings = ranked(claims)
    by, kinds = names["group"]
    means = [
        MeanMap(answer, by if label else None, label, torch.rand(7, 7, generator=torch_draw) ** 3 / 49, 20)
        for answer in names["classes"]
        for label in (None, *kinds[: 2 if answer == names["classes"][0] else 3])
    ]
    return Diagnosis(
        names["model"],
        "planted()",
        names["method"],
        names["removal"] if masks else "",
        findings,
        tuple(claims),
        tuple(limit for part in found for limit in part.limits),
        groups.rows,
        versions.rows,
        versions.classes,
        swaps.rows,
        amplification.rows,
        regions.rows,
        labels.rows,
        scores_of(answers, [*overlaps, border], names),
        pictures_of(findings, names, torch_draw, maps=masks, each=each),
        tuple(means),
        {"versions": "Python 3.12, torch 2.10", "seed": "0"},
    )
