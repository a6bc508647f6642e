"""`attribkit list`: what there is to choose from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ..errors import UnknownName

if TYPE_CHECKING:
    from ..methods.base import Method
    from ..metrics.base import Metric
    from ..removals.base import Removal


@click.command(name="list", short_help="List methods, metrics, removals, segmenters, problems or models.")
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
    from ..methods import METHODS
    from ..registry import needed

    def asks(cls: type[Method]) -> str:
        needs = cls.needs if needed(cls) else cls().needs  # of an object, since a wrapper needs what it wraps
        return f"needs {', '.join(sorted(needs)) or 'nothing'}; costs {cls.cost}"

    return {name: _about(cls, asks(cls)) for name, cls in METHODS.items()}


def _removals() -> dict[str, str]:
    from ..removals import REMOVALS

    def runs(cls: type[Removal]) -> str:
        how = "all images at once" if cls.batched else "one image at a time"
        return f"runs on {cls.runs_on}, {how}" + ("; what is removed still has some influence" if cls.sees_removed else "")

    return {name: _about(cls, runs(cls)) for name, cls in REMOVALS.items()}


def _metrics() -> dict[str, str]:
    from ..metrics import METRICS

    def means(cls: type[Metric]) -> str:
        made = cls()
        chance = "" if made.chance is None else f"; {made.chance:g} says nothing"
        return f"{made.family}; {'higher' if made.higher_is_better else 'lower'} is better{chance}; costs {made.cost}"

    return {name: _about(cls, means(cls)) for name, cls in METRICS.items()}


def _segmenters() -> dict[str, str]:
    from ..segments import SEGMENTERS

    return {name: _about(cls) for name, cls in SEGMENTERS.items()}


def _about(cls: type[Any], *facts: str) -> str:
    """What a class is, how it is called, further facts, and its paper: a line each."""
    from ..registry import usage

    return f"\n{'':23}".join((_first_line(cls), usage(cls), *facts, cls.paper))


def _problems() -> dict[str, str]:
    from ..problems import PROBLEMS

    return {name: _first_line(cls) for name, cls in PROBLEMS.items()}


def _models() -> dict[str, str]:
    from ..model.zoo import model_names

    return {f"{source}/{name}": "" for source, names in model_names().items() for name in names}


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]
