"""Whether a diagnosis finds what is there, finds nothing where nothing is, and what it costs.

    python benchmarks/diagnosis.py truth --seeds 2           # the seven strengths of both shortcuts, and models trained from other seeds
    python benchmarks/diagnosis.py calibration --models 20   # models without a shortcut: how often anything is found
    python benchmarks/diagnosis.py cost --images 1000        # beside the passes it is made of, by hand, interleaved
    python benchmarks/diagnosis.py memory --images 4000      # resident memory while images stream through

`truth` and `calibration` end with exit code 1 where what is promised does not hold. Models that are trained for them are kept in
--folder, and not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import sys
import time
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from streaming import resident
from timing import Run, compared, printed
from train_planted import train

import attribkit as ak
from attribkit.diagnosing.answered import Known
from attribkit.diagnosing.calls import CUES, DONORS, LENDERS, MASKING
from attribkit.diagnosing.exchanging import Pool, cues_of
from attribkit.diagnosing.versions import kept
from attribkit.model.planted import CLASSES, MEAN, SIZE, STD, planted_module, stored_weights

STRENGTHS = (50, 60, 70, 80, 90, 95, 100)
TEST_SEED, IMAGES_SEED = 3, 20261
NONE_AT = 50  # the strength at which there is no shortcut
SURE_FROM = 90  # the strength from which a model answers by the shortcut in most images where it does not hold
RANKS = 0.9
SHAKEN = 0.5  # of the standard deviation of a layer's weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["truth", "calibration", "cost", "memory"])
    parser.add_argument("--images", type=int, default=256, help="images that a model is diagnosed on")
    parser.add_argument("--seeds", type=int, default=0, help="truth: seeds beside that of the package's models")
    parser.add_argument("--models", type=int, default=20, help="calibration: how many are trained")
    parser.add_argument("--rounds", type=int, default=3, help="cost: rounds")
    parser.add_argument("--shortcut", choices=["shortcut", "tag", "both"], default="both", help="truth: which")
    parser.add_argument("--train-images", type=int, default=2500)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--folder", type=Path, default=Path("diagnosis-models"), help="where models are kept")
    given = parser.parse_args()
    sys.exit({"truth": truth, "calibration": calibration, "cost": cost, "memory": memory}[given.what](given))


def trained(name: str, seed: int, given: argparse.Namespace) -> ak.VisionModel:
    """A model of that shortcut and strength, whose first weights and order are from a seed; trained where it is not there yet."""
    path = given.folder / f"seed{seed}" / f"{name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        module = train(name, seed=IMAGES_SEED, count=given.train_images, epochs=given.epochs, start=seed)
        path.write_bytes(safetensors.torch.save(dict(stored_weights(module))))
    return ak.load_model(f"planted/{name}", weights=path)


# Known truth -----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Found:
    """What was said of one model: the place of the finding about its shortcut, what came first, and its mean mask scores."""

    place: int | None
    first: str
    effect: float
    object: float
    other: float
    findings: int
    claims: int


def looked_at(model: ak.VisionModel, cue: str, count: int) -> Found:
    """Diagnose one model on scenes in which no shortcut holds."""
    result = ak.diagnose(model, ak.problems.Planted(model, count, 50, TEST_SEED))
    place = next((at for at, each in enumerate(result.findings, 1) if each.test == "swap" and each.cue == cue), None)
    score = {row.region: row.score for row in result.regions if row.target is None and row.by is None}
    swap = next(each for each in result.claims if each.test == "swap" and each.cue == cue and f"another {cue}" in each.claim)
    first = f"{result.findings[0].test}: {result.findings[0].cue}" if result.findings else "nothing"
    return Found(place, first, swap.effect, score["object"], score[cue], len(result.findings), len(result.claims))


def truth(given: argparse.Namespace) -> int:
    """The detection table, and whether scores fall and rise with the strength."""
    wrong = []
    for kind, cue in (("shortcut", "background"), ("tag", "tag")):
        if given.shortcut not in (kind, "both"):
            continue
        print(f"| seed | {kind} | first finding | place of '{cue}' | effect | object score | {cue} score | findings of claims |")
        print("|---|---|---|---|---|---|---|---|")
        for seed in range(given.seeds + 1):
            rows = []
            for strength in STRENGTHS:
                name = f"{kind}-{strength}"
                model = ak.load_model(f"planted/{name}") if seed == 0 else trained(name, seed, given)
                row = looked_at(model, cue, given.images)
                rows.append(row)
                print(
                    f"| {seed or 'package'} | {strength} % | {row.first} | {row.place or '–'} | {row.effect:.2f} | {row.object:.3f} | "
                    f"{row.other:.3f} | {row.findings} of {row.claims} |",
                    flush=True,
                )
                if ((strength >= SURE_FROM and kind == "shortcut") or strength == 100) and row.place != 1:
                    wrong.append(f"seed {seed}, {name}: the {cue} is not what comes first")
                if strength == NONE_AT and row.findings:
                    wrong.append(f"seed {seed}, {name}: {row.findings} findings, and there is nothing")
            falls, rises = spearman([row.object for row in rows]), spearman([row.other for row in rows])
            print(f"seed {seed or 'package'}: Spearman with the strength: object {falls:.2f}, {cue} {rises:.2f}", flush=True)
            if falls > -RANKS or rises < RANKS:
                wrong.append(f"seed {seed}, {kind}: Spearman {falls:.2f} and {rises:.2f}")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


def spearman(values: list[float]) -> float:
    """The rank correlation with the strengths."""
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1])


# Nothing to be found ----------------------------------------------------------------------------------------------------------------


def calibration(given: argparse.Namespace) -> int:
    """How many of many models without a shortcut anything is found of, and how often a claim has p < 0.05 by itself."""
    false, below, claims = 0, 0, 0
    for seed in range(100, 100 + given.models):
        model = shaken(seed, given)
        result = ak.diagnose(model, ak.problems.Planted(model, given.images, 50, TEST_SEED + seed), seed=seed)
        ps = [each.p for each in result.claims]
        false += bool(result.findings)
        below, claims = below + sum(p < 0.05 for p in ps), claims + len(ps)
        right = sum(row.right for row in result.groups if row.by == "object" and row.target is None)
        said = "; ".join(each.claim for each in result.findings) or "nothing"
        print(f"seed {seed}: right in {right} of {given.images}, lowest p {min(ps):.3f}, found: {said}", flush=True)
    share = 0.05 * given.models
    most = next(k for k in range(given.models + 1) if binomial_above(k, given.models, 0.05) < 0.05)
    print(
        f"{false} of {given.models} models have a finding (expected at most {share:.1f}, with chance below 5 % more than {most}); "
        f"{below} of {claims} claims ({below / claims:.1%}) have p < 0.05 before the correction"
    )
    return 1 if false > most else 0


def shaken(seed: int, given: argparse.Namespace) -> ak.VisionModel:
    """The package's model without a shortcut, its weights shaken at random, and trained on: another one, that is right as often."""
    name, draw = f"shortcut-{NONE_AT}", torch.Generator().manual_seed(seed)
    module = planted_module(name)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim > 1:
                weight += SHAKEN * weight.std() * torch.randn(weight.shape, generator=draw)
    for weight in module.parameters():
        weight.requires_grad_()
    module = train(name, seed=IMAGES_SEED, count=given.train_images, epochs=given.epochs, start=seed, module=module)
    return ak.VisionModel(module, mean=MEAN, std=STD, size=SIZE, classes=CLASSES, name=f"{name}, seed {seed}")


def binomial_above(k: int, n: int, p: float) -> float:
    """The chance of more than k of n."""
    from math import comb

    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1, n + 1))


# Cost -------------------------------------------------------------------------------------------------------------------------------


def cost(given: argparse.Namespace) -> int:
    """A diagnosis beside its passes by hand: answers, maps, versions, and images with parts exchanged, on the same images."""
    model = ak.load_model("torchvision/resnet18", weights=None)
    batches = synthetic(model, given.images)
    runs: dict[str, Run] = {"by hand": lambda: by_hand(model, batches), "diagnosis": lambda: ak.diagnose(model, batches)}
    title = f"{given.images} images, ResNet-18 with random weights, masks, two groups, {torch.get_num_threads()} threads"
    printed(compared(title, runs, given.rounds, base="by hand"))
    return 0


def synthetic(model: ak.VisionModel, count: int, rows: int = 32) -> list[ak.Batch]:
    """Noise with a square that is the object, and two groups."""
    draw, batches = torch.Generator().manual_seed(0), []
    for start in range(0, count, rows):
        size = min(rows, count - start)
        images, region = torch.randn(size, 3, 224, 224, generator=draw), torch.zeros(size, 224, 224)
        for row, (top, left) in enumerate(torch.randint(0, 112, (size, 2), generator=draw).tolist()):
            region[row, top : top + 96, left : left + 96] = 1
        groups = {name: torch.randint(0, 2, (size,), generator=draw) for name in ("place", "camera")}
        targets = ak.Targets(torch.randint(0, 10, (size,), generator=draw))
        batches.append(ak.Batch(images, targets, tuple(f"{start + row:05d}" for row in range(size)), {"object": region}, groups))
    return batches


def memory(given: argparse.Namespace) -> int:
    """What the process holds as planted images stream through, which are drawn as they are asked for."""
    model = ak.load_model("planted/shortcut-95")
    for count in (given.images // 4, given.images // 2, given.images):
        began = time.perf_counter()
        ak.diagnose(model, ak.problems.Planted(model, count, 50, TEST_SEED))
        pace = count / (time.perf_counter() - began)
        gc.collect()
        print(f"{count} images: {resident():.0f} MiB, at most {resident('VmHWM'):.0f}, {pace:.1f} images a second")
    return 0


def by_hand(model: ak.VisionModel, batches: list[ak.Batch]) -> None:
    """The passes alone: nothing is counted, kept or tested."""
    first = batches[0]
    lenders = ak.problems.Labelled(model, batches).batch(range(min(LENDERS, sum(map(len, batches)))))
    known = [Known(0, 0, None, (0,))] * len(lenders)
    cues = cues_of(first, ["object"], CUES)
    pool = Pool.of(model, lenders, known, cues, 0)
    for batch in batches:
        answers = model.logits(batch.images).argmax(1)
        ak.explain(model, dataclasses.replace(batch, targets=ak.Targets(answers)), "grad_cam")
        for keep, _ in kept(batch.region("object") > 0.5).values():
            MASKING(model, batch.images, keep)
        for cue in cues:
            exchanged = pool.exchanging(model, batch, cue)
            for turn in range(DONORS):
                donors = torch.arange(len(batch)) * (turn + 1) % len(lenders)
                model.logits(exchanged(donors)[0])


if __name__ == "__main__":
    main()
