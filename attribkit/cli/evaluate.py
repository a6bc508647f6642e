"""`attribkit evaluate`: score methods on images, as a run on disk that can be killed and resumed."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadInput, BrokenRun
from .options import WITH_ERRORS, Numbers, bar

if TYPE_CHECKING:
    from ..evaluating.runs import Outcome

OUT = "attribkit-run"
OPTIONS = (
    click.option("--config", type=click.Path(path_type=Path), help="A TOML file that says what is asked; options override it."),
    click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key: limit=100, methods.0.steps=64."),
    click.option("--model", metavar="SOURCE/NAME", help="torchvision/NAME, timm/NAME, hf/ORG/NAME or planted/NAME."),
    click.option("--weights", metavar="NAME|FILE|none", help="Published weights by name, a .safetensors or PyTorch file, or none."),
    click.option("--mean", type=Numbers(), help="Mean of the pixels in [0, 1] that the weights were trained with."),
    click.option("--std", type=Numbers(), help="Their standard deviation."),
    click.option("--size", type=int, help="Side of the model's square input in pixels."),
    click.option("--classes", metavar="FILE|A,B,...", help="Class names: a text file with one a line, or a list."),
    click.option("--layer", help="Layer that CAM methods look at; the model's last spatial one by default."),
    click.option("--precision", metavar="float32|bf16", help="bf16 runs the model itself in lower precision."),
    click.option("--kind", metavar="KIND", help="What of the target: logit, log_odds, probability or evidence."),
    click.option("--data", metavar="MANIFEST|DIR|planted", help="A manifest (CSV or Parquet), a folder of class folders, or planted."),
    click.option("--problem", "problems", multiple=True, help='labelled, grid, disconnected, planted; or a call: "Grid(n=3, count=50)".'),
    click.option("--method", "methods", multiple=True, help='A name, or a call such as "IntegratedGradients(steps=20)".'),
    click.option("--metric", "metrics", multiple=True, help="A name, or a call, as `attribkit list metrics` shows them."),
    click.option("--controls/--no-controls", default=None, help="Score maps that know nothing of the model, too (they are by default)."),
    click.option("--seed", type=int, help="Seed of the problems that draw something."),
    click.option("--limit", type=int, help="The first N images of the data only."),
    click.option("--batch", type=int, help="Images at a time: what is lost at most when a run is killed (32)."),
    click.option("--maps", metavar="float16|float32|none", help="How maps are kept, and scored (float16)."),
)
EXECUTION = (
    click.option("--out", metavar="DIR", help="The run's folder (attribkit-run)."),
    click.option("--workers", type=int, help="Processes; by default one for each GPU, or one. 0: in this process, without a deadline."),
    click.option("--engine", metavar="local|ray", help="ray: on the cluster that `ray.init` finds."),
    click.option("--deadline", type=float, help="Seconds that an image or a batch may take by one method (1800)."),
    click.option("--device", help="cpu, cuda, cuda:1, ...; all GPUs by default where there are any, else cpu."),
    click.option("--retry", is_flag=True, default=None, help="With --resume: what failed before is tried again."),
)


def _with(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command(short_help="Score methods on images: which of them tells the truth.")
@_with(OPTIONS)
@_with(EXECUTION)
@click.option("--resume", is_flag=True, help="Go on with the run in --out; without other options, as it was asked for.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def evaluate(config: Path | None, overrides: tuple[str, ...], resume: bool, as_json: bool, **given: Any) -> int:
    """Score attribution methods on your images, into a folder that keeps everything.

    For example: attribkit evaluate --model torchvision/resnet50 --data photos.csv --method grad_cam --method xrai --metric deletion

    A run that was killed goes on with `attribkit evaluate --out DIR --resume`; `attribkit show DIR` tells how far it is.
    """
    from ..configuration import configured
    from ..evaluating.runs import earlier, execute

    options, out = _options(given), Path(given["out"] or OUT)
    base: Any = config
    if resume and config is None and "--model" not in options:
        base = earlier(out)
        if base is None:
            raise BadInput(f"{out}: there is no run in it to go on with; allowed: the folder of one, or --model, --data and so on as well")
    if not resume and not config and "--model" not in options and _begun(out):
        raise BadInput(f"{out}: there is a run in it, allowed: --resume to go on with it, or --model, --data and so on for another one")
    configuration, execution = configured(base, options, overrides)
    execution = dataclasses.replace(execution, out=execution.out or OUT)
    if not resume and _begun(Path(str(execution.out))):
        raise BadInput(f"{execution.out}: there is a run in it, allowed: --resume to go on with it, or another --out")
    signal.signal(signal.SIGTERM, _interrupted)
    with bar("map") as progress:
        try:
            outcome = execute(configuration, execution, say=lambda text: None if as_json else click.echo(text, err=True), progress=progress)
        except KeyboardInterrupt:
            click.echo(f"what is finished is kept: attribkit evaluate --out {execution.out} --resume", err=True)
            raise click.Abort from None
    return _told(outcome, as_json=as_json)


def _options(given: dict[str, Any]) -> dict[str, tuple[tuple[str, ...], Any]]:
    """The options that were given, each with the keys that it stands for."""
    found: dict[str, tuple[tuple[str, ...], Any]] = {}
    for name, value in given.items():
        if value is None or value == ():
            continue
        many = name in ("problems", "methods", "metrics")
        keys = ("run", name) if name in ("out", "workers", "engine", "deadline", "device", "retry") else (name,)
        found[f"--{name.removesuffix('s') if many else name}"] = (keys, list(value) if many else value)
    return found


def _begun(out: Path) -> bool:
    """Whether there is a run in a folder that has come to anything."""
    from ..store.folder import Store, is_run

    if not is_run(out):
        return False
    try:
        with Store(out) as store:
            return store.state().done > 0
    except BrokenRun:  # what is good of it can be gone on with
        return True


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _told(outcome: Outcome, *, as_json: bool) -> int:
    """Say what a run has come to; the exit code."""
    from ..evaluating.runs import said_of

    page = outcome.out / "report.html"
    if as_json:
        ranks = [
            {name: getattr(place, name) for name in ("problem", "model", "metric", "rank", "method", "mean", "low", "high", "count")}
            for place in outcome.scores.ranking()
        ]
        done = {
            "report": str(page),
            "scores": str(outcome.out / "scores.csv"),
            "rows": len(outcome.scores),
            "seconds": round(outcome.seconds, 3),
            "ranking": [{name: None if value != value else value for name, value in place.items()} for place in ranks],
            "failures": [{"id": each.id, "stage": each.stage, "reason": said_of(each)} for each in outcome.failures],
        }
        click.echo(json.dumps(done, allow_nan=False))
    else:
        from ..report.tables import leaderboard

        click.echo(leaderboard(outcome.scores, style="text"))
        click.echo(f"{len(outcome.scores)} scores in {outcome.seconds:.0f} s -> {page}")
    for each in outcome.failures[:20]:
        click.echo(f"failed: {each.id} ({each.stage}): {said_of(each)}", err=True)
    if len(outcome.failures) > 20:
        click.echo(f"failed: {len(outcome.failures) - 20} more, in {outcome.out / 'failures.csv'}", err=True)
    return WITH_ERRORS if outcome.failures else 0
