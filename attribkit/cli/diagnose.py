"""`attribkit diagnose`: what a model leans on and should not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import WITH_ERRORS, bar, folder, model_from, model_options

if TYPE_CHECKING:
    from ..diagnosing.runs import Written
    from ..model.adapter import VisionModel
    from ..problems.base import Problem

PLANTED = "planted"


@click.command(short_help="Find what a model leans on and should not.")
@model_options
@click.option(
    "--data", required=True, metavar="MANIFEST|DIR|planted", help="A manifest (CSV or Parquet), a folder of class folders, or planted."
)
@click.option(
    "--method", default="grad_cam", show_default=True, help='Whose maps: a name, or a call such as "IntegratedGradients(steps=20)".'
)
@click.option("--removal", metavar="NAME|CALL", help="What is in the place of removed pixels; layer masking where it runs.")
@click.option("--protected", metavar="CLASS", help="A class whose maps those of all others are compared with (models of few classes).")
@click.option("--training", metavar="MANIFEST", help="Labels and groups that the model was trained on, for bias amplification.")
@click.option(
    "--kind", default="logit", show_default=True, help="What of the answer is explained: logit, log_odds, probability or evidence."
)
@click.option("--limit", type=click.IntRange(1), help="The first N images only; of planted ones, how many (256).")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Images at a time.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of who lends parts to whom, and of planted images.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("attribkit-diagnosis"),
    show_default=True,
    help="Folder to write to.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def diagnose(out: Path, as_json: bool, **options: Any) -> int:
    """Say what a model leans on and should not, as far as your images tell, with pictures that show it.

    For example: attribkit diagnose --model torchvision/resnet50 --data birds.csv, whose manifest has the columns
    path,label,mask:bird,group:place. Masks, labels and groups each make more tests possible; the report says which could not run.
    """
    from ..diagnosing.runs import diagnosed

    asked = {name: options.pop(name) for name in ("method", "removal", "protected", "training")}
    data = {name: options.pop(name) for name in ("data", "kind", "limit", "batch", "seed")}
    model = model_from(**options)
    if not as_json:
        click.echo(f"{model.name}: {model.preprocessing}; on {model.device}\nweights: {model.weights}", err=True)
    with bar("image") as progress:
        written = diagnosed(folder(out), model, _problem(model, **data), seed=data["seed"], progress=progress, **asked)
    return _told(written, as_json=as_json)


def _problem(  # noqa: PLR0913 - what is known of the images, all by name
    model: VisionModel, *, data: str, kind: str, limit: int | None, batch: int, seed: int
) -> Problem:
    """The images that are asked about."""
    from ..problems.labelled import Labelled
    from ..problems.planted import Planted

    if data == PLANTED:
        return Planted(model, limit or 256, seed=seed, batch_size=batch)
    return Labelled(model, data, kind=kind, limit=limit, batch_size=batch)  # type: ignore[arg-type]  # which it checks


def _told(written: Written, *, as_json: bool) -> int:
    """Say what was found; the exit code."""
    from ..report.page import visible

    page, found = written.out / "report.html", written.diagnosis
    if as_json:
        click.echo(json.dumps({"report": str(page), "seconds": round(written.seconds, 3), **found.record()}, allow_nan=False))
    else:
        click.echo(f"{found}\n{len(found.scores)} scores in {written.seconds:.0f} s -> {page}")
    failures = found.scores.failures
    for each in failures[:20]:
        click.echo(f"failed: {visible(each.id)} ({each.stage}): {visible(each.reason)}", err=True)
    if len(failures) > 20:
        click.echo(f"failed: {len(failures) - 20} more, in {written.out / 'failures.csv'}", err=True)
    return WITH_ERRORS if failures else 0
