"""`attribkit explain`: saliency maps of photographs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadInput, BrokenImage
from .options import WITH_ERRORS, folder, model_from, model_options

if TYPE_CHECKING:
    from ..batch import Batch
    from ..report.album import Album


@click.command(short_help="Write saliency maps of photographs.")
@click.argument("images", nargs=-1, required=True)
@model_options
@click.option(
    "--method",
    "method_names",
    multiple=True,
    default=("grad_cam",),
    show_default=True,
    help='A name, or a call such as "IntegratedGradients(steps=20)".',
)
@click.option("--target", help="Class to explain, by name or index; by default what the model predicts for each image.")
@click.option("--kind", default="logit", show_default=True, help="What of the class: logit, log_odds, probability or evidence.")
@click.option("--limit", type=click.IntRange(1), help="Explain the first N images only.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("attribkit-out"), show_default=True, help="Folder to write to."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def explain(images: tuple[str, ...], method_names: tuple[str, ...], limit: int | None, out: Path, **options: Any) -> int:
    """Write saliency maps of IMAGES: files, folders or patterns.

    For example: attribkit explain photos/ --model torchvision/resnet50 --method grad_cam --method "IntegratedGradients(steps=20)"
    """
    from ..images import find_images
    from ..methods.base import method
    from ..report.album import Album
    from ..report.output import Output

    asked = {name: options.pop(name) for name in ("target", "kind")}
    as_json = options.pop("as_json")
    methods = list(dict.fromkeys(method(name) for name in method_names))
    output = Output(folder(out))
    written = {path.resolve() for path in output.earlier()}  # pictures of an earlier run, where `out` lies among the images
    paths = [path for path in find_images(images) if path.resolve() not in written][:limit]
    if not paths:
        raise BadInput(f"{', '.join(images)}: got what an earlier run wrote, allowed: other images")
    if not any(path.exists() for path in paths):
        raise BrokenImage(paths[0], "no such file")
    model = model_from(**options)
    for each in methods:
        model.require(each.needs, by=each)
    if not as_json:
        click.echo(f"{model.name}: {model.preprocessing}; on {model.device}\nweights: {model.weights}")
        if any("spatial_layer" in each.needs for each in methods):
            click.echo(f"CAM layer: {model.layer}")
    return _explained(Album(output, model, methods), paths, asked, as_json=as_json)


def _explained(album: Album, paths: list[Path], asked: dict[str, Any], *, as_json: bool) -> int:
    from ..explaining import stream_images
    from ..report.album import PAGE_IMAGES, write_album
    from ..scores import Failure

    model, broken = album.model, list[BrokenImage]()
    target = None if asked["target"] is None else model.target(asked["target"])
    batches = stream_images(paths, model, target, rows=model.max_rows, kind=asked["kind"], broken=broken)
    section = album.section(_with_progress(batches, len(paths), broken))
    failures = [*(Failure(error.path, "read", error.reason) for error in broken), *album.failed]
    said = [f"{failure.id}: {failure.reason}" for failure in failures]
    if not album.rows:
        raise BadInput("; ".join(said[:3]) + (f"; and {len(said) - 3} more" if len(said) > 3 else ""))
    names = ", ".join(method.brief() for method in album.methods)
    summary = f"{len(album.rows)} images explained by {names}."
    if len(album.rows) > PAGE_IMAGES:
        summary += f" The first {PAGE_IMAGES} are shown here, the pictures of all are in the folders beside this page."
    page = write_album(album.out, [(album, section)], title=f"What {model.name} looked at", summary=summary, failures=failures)
    if as_json:
        done = {
            "model": model.name,
            "report": str(page),
            "methods": list(map(repr, album.methods)),
            "images": album.rows,
            "failures": [failure._asdict() for failure in failures],
        }
        click.echo(json.dumps(done, allow_nan=False))
    else:
        for row in album.rows[:8]:
            click.echo(f"  {row['id']}: {row['label']}, p = {row['probability']:.3f}")
        click.echo(f"{len(album.rows)} images, {len(album.methods)} methods -> {page}")
    for line in said:
        click.echo(f"failed: {line}", err=True)
    return WITH_ERRORS if failures else 0


def _with_progress(batches: Iterator[Batch], total: int, broken: Sequence[BrokenImage]) -> Iterator[Batch]:
    """The batches, with a bar on a terminal and none elsewhere; it also says how far a long method has come with its batch."""
    from tqdm import tqdm

    from ..progress import reporting

    with tqdm(total=total, unit="image", disable=None, file=sys.stderr) as bar:
        for batch in batches:
            with reporting(lambda done, steps, what: bar.set_postfix_str(f"{what} {done}/{steps}")):
                yield batch
            bar.set_postfix_str("", refresh=False)
            bar.update(len(batch))
