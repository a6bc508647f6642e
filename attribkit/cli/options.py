"""What several commands have in common: options, folders, bars, exit codes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadInput

if TYPE_CHECKING:
    from ..model.adapter import VisionModel
    from ..progress import Pace

FAILED, MISUSED, WITH_ERRORS, INTERRUPTED = 1, 2, 3, 130


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


def model_options(command: Any) -> Any:
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


def model_from(model_name: str, weights: str, classes: str | None, device: str | None, **overrides: Any) -> VisionModel:
    """The model that options ask for."""
    from ..model.zoo import load_model

    names = None if classes is None else _class_names(classes)
    return load_model(
        model_name, weights=None if weights.lower() == "none" else weights, classes=names, device=device_from(device), **overrides
    )


def _class_names(given: str) -> tuple[str, ...]:
    from ..configuration import class_names

    try:
        return class_names(given)
    except BadInput as error:
        raise BadInput(f"--classes: {error}") from None


def device_from(given: str | None) -> str:
    """The device that is asked for, or the accelerator, if there is one."""
    import torch

    return given or ("cuda" if torch.cuda.is_available() else "cpu")


def folder(out: Path) -> Path:
    """A folder to write to, made where there is none."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {out}: {error.strerror}") from error
    return out


@contextlib.contextmanager
def bar(unit: str) -> Iterator[Callable[[Pace], None]]:
    """Who listens to an evaluation: a bar with rate and time left on a terminal, and nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None, file=sys.stderr) as shown:

        def heard(pace: Pace) -> None:
            if pace.done < shown.n:  # another evaluation begins
                shown.reset()
            shown.total = pace.total
            shown.set_postfix_str(pace.what, refresh=False)
            shown.update(pace.done - shown.n)

        yield heard
