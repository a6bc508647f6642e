"""The command line: arguments to calls, and the only place that prints. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .errors import AttribkitError, BadInput, BrokenImage, UnknownName

if TYPE_CHECKING:
    from .batch import Batch
    from .methods.base import Method
    from .metrics.base import Metric
    from .model.adapter import VisionModel
    from .progress import Pace
    from .removals.base import Removal
    from .report.album import Album

FAILED, MISUSED, WITH_ERRORS, INTERRUPTED = 1, 2, 3, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="attribkit")
@click.option("--traceback", is_flag=True, help="Show where in the code an error came from.")
def attribkit(traceback: bool) -> None:
    """Saliency maps for vision models: see what a model looked at."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exit 0 when all is done, 1 failed, 2 misused, 3 done but for the files listed, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = attribkit.main(given, prog_name="attribkit", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(MISUSED)
    except AttribkitError as error:
        if "--traceback" in given:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(MISUSED)
    except BrokenPipeError:  # who was reading has read enough, as in `attribkit list models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:  # a model's own code, or the disk, failed: one line; the place in the code is one option away
        if "--traceback" in given:
            raise
        click.echo(
            f"Error: {type(error).__name__}: {' '.join(str(error).split())} (attribkit --traceback COMMAND ... shows where)", err=True
        )
        sys.exit(FAILED)


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """One number, or three with commas between them."""

    name = "NUMBER[,NUMBER,NUMBER]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float, float]:
        """The three numbers."""
        if isinstance(value, tuple):
            return value
        try:
            parts = [float(part) for part in str(value).split(",")]
        except ValueError:
            parts = []
        if len(parts) not in (1, 3):
            self.fail(f"got {value!r}, allowed: one number, or three such as 0.485,0.456,0.406", param, ctx)
        return (parts[0], parts[0], parts[0]) if len(parts) == 1 else (parts[0], parts[1], parts[2])


def _model_options(command: Any) -> Any:
    """The options that say which model, and what overrides what its weights say of their images."""
    options = [
        click.option(
            "--model", "model_name", required=True, metavar="SOURCE/NAME", help="torchvision/NAME, timm/NAME, hf/ORG/NAME or planted/NAME."
        ),
        click.option(
            "--weights",
            default="default",
            metavar="NAME|FILE|none",
            help="Published weights by name, a .safetensors or PyTorch file, or none.",
        ),
        click.option("--mean", type=Numbers(), help="Mean of the pixels in [0, 1] that the weights were trained with."),
        click.option("--std", type=Numbers(), help="Their standard deviation."),
        click.option("--size", type=click.IntRange(1), help="Side of the model's square input in pixels."),
        click.option("--classes", metavar="FILE|A,B,...", help="Class names: a text file with one a line, or a list."),
        click.option("--layer", help="Layer that CAM methods look at; the model's last spatial one by default."),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bf16"]),
            default="float32",
            show_default=True,
            help="bf16 runs the model itself in lower precision: faster on some machines, and the maps change a little.",
        ),
        click.option("--device", help="cpu, cuda, cuda:1, ...; cuda by default where there is one, else cpu."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@attribkit.command(short_help="Write saliency maps of photographs.")
@click.argument("images", nargs=-1, required=True)
@_model_options
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
    from .images import find_images
    from .methods.base import method
    from .report.album import Album
    from .report.output import Output

    asked = {name: options.pop(name) for name in ("target", "kind")}
    as_json = options.pop("as_json")
    methods = list(dict.fromkeys(method(name) for name in method_names))
    folder = Output(_folder(out))
    written = {path.resolve() for path in folder.earlier()}  # pictures of an earlier run, where `out` lies among the images
    paths = [path for path in find_images(images) if path.resolve() not in written][:limit]
    if not paths:
        raise BadInput(f"{', '.join(images)}: got what an earlier run wrote, allowed: other images")
    if not any(path.exists() for path in paths):
        raise BrokenImage(paths[0], "no such file")
    model = _model(**options)
    for each in methods:
        model.require(each.needs, by=each)
    if not as_json:
        click.echo(f"{model.name}: {model.preprocessing}; on {model.device}\nweights: {model.weights}")
        if any("spatial_layer" in each.needs for each in methods):
            click.echo(f"CAM layer: {model.layer}")
    return _explained(Album(folder, model, methods), paths, asked, as_json=as_json)


def _explained(album: Album, paths: list[Path], asked: dict[str, Any], *, as_json: bool) -> int:
    from .explaining import stream_images
    from .report.album import PAGE_IMAGES, write_album
    from .scores import Failure

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


def _model(model_name: str, weights: str, classes: str | None, device: str | None, **overrides: Any) -> VisionModel:
    from .model.zoo import load_model

    names = None if classes is None else _class_names(classes)
    return load_model(
        model_name, weights=None if weights.lower() == "none" else weights, classes=names, device=_device(device), **overrides
    )


def _class_names(given: str) -> tuple[str, ...]:
    from .configuration import class_names

    try:
        return class_names(given)
    except BadInput as error:
        raise BadInput(f"--classes: {error}") from None


def _device(given: str | None) -> str:
    import torch

    return given or ("cuda" if torch.cuda.is_available() else "cpu")


def _folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {out}: {error.strerror}") from error
    return out


def _with_progress(batches: Iterator[Batch], total: int, broken: Sequence[BrokenImage]) -> Iterator[Batch]:
    """The batches, with a bar on a terminal and none elsewhere; it also says how far a long method has come with its batch."""
    from tqdm import tqdm

    from .progress import reporting

    with tqdm(total=total, unit="image", disable=None, file=sys.stderr) as bar:
        for batch in batches:
            with reporting(lambda done, steps, what: bar.set_postfix_str(f"{what} {done}/{steps}")):
                yield batch
            bar.set_postfix_str("", refresh=False)
            bar.update(len(batch))


@contextlib.contextmanager
def _bar(unit: str) -> Iterator[Callable[[Pace], None]]:
    """Who listens to an evaluation: a bar with rate and time left on a terminal, and nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None, file=sys.stderr) as bar:

        def heard(pace: Pace) -> None:
            if pace.done < bar.n:  # another evaluation begins
                bar.reset()
            bar.total = pace.total
            bar.set_postfix_str(pace.what, refresh=False)
            bar.update(pace.done - bar.n)

        yield heard


@attribkit.command(name="list", short_help="List methods, metrics, removals, segmenters, problems or models.")
@click.argument("what", metavar="methods|metrics|removals|segmenters|problems|models")
@click.argument("part", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(what: str, part: str, as_json: bool) -> None:
    """List what there is to choose from; PART keeps the names that contain it."""
    kinds = {
        "methods": _methods,
        "metrics": _metrics,
        "removals": _removals,
        "segmenters": _segmenters,
        "problems": _problems,
        "models": _models,
    }
    if what not in kinds:
        raise UnknownName("list", what, kinds)
    found = {name: about for name, about in kinds[what]().items() if part.lower() in name.lower()}
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, about in found.items():
        click.echo(f"{name:22} {about}".rstrip())


def _methods() -> dict[str, str]:
    from .methods import METHODS
    from .registry import needed

    def asks(cls: type[Method]) -> str:
        needs = cls.needs if needed(cls) else cls().needs  # of an object, since a wrapper needs what it wraps
        return f"needs {', '.join(sorted(needs)) or 'nothing'}; costs {cls.cost}"

    return {name: _about(cls, asks(cls)) for name, cls in METHODS.items()}


def _removals() -> dict[str, str]:
    from .removals import REMOVALS

    def runs(cls: type[Removal]) -> str:
        how = "all images at once" if cls.batched else "one image at a time"
        return f"runs on {cls.runs_on}, {how}" + ("; what is removed still has some influence" if cls.sees_removed else "")

    return {name: _about(cls, runs(cls)) for name, cls in REMOVALS.items()}


def _metrics() -> dict[str, str]:
    from .metrics import METRICS

    def means(cls: type[Metric]) -> str:
        made = cls()
        chance = "" if made.chance is None else f"; {made.chance:g} says nothing"
        return f"{made.family}; {'higher' if made.higher_is_better else 'lower'} is better{chance}; costs {made.cost}"

    return {name: _about(cls, means(cls)) for name, cls in METRICS.items()}


def _segmenters() -> dict[str, str]:
    from .segments import SEGMENTERS

    return {name: _about(cls) for name, cls in SEGMENTERS.items()}


def _about(cls: type[Any], *facts: str) -> str:
    """What a class is, how it is called, further facts, and its paper: a line each."""
    from .registry import usage

    return f"\n{'':23}".join((_first_line(cls), usage(cls), *facts, cls.paper))


def _problems() -> dict[str, str]:
    from .problems import PROBLEMS

    return {name: _first_line(cls) for name, cls in PROBLEMS.items()}


def _models() -> dict[str, str]:
    from .model.zoo import model_names

    return {f"{source}/{name}": "" for source, names in model_names().items() for name in names}


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


@attribkit.command()
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("attribkit-demo"), show_default=True, help="Folder to write to."
)
@click.option("--count", type=click.IntRange(1), default=12, show_default=True, help="How many images to make and explain.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def demo(out: Path, count: int, as_json: bool) -> None:
    """Explain the embedded models on images made for the purpose, and say which methods find what each looks at."""
    from .demo import write_demo

    with _bar("map") as progress:
        done = write_demo(_folder(out), count, progress)
    click.echo(done.json() if as_json else f"{done}\nOpen {done.page}")
