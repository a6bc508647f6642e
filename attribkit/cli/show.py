"""`attribkit show`: how far a run is, and its table."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..store.folder import State


@click.command(short_help="How far a run is, and its table.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(run: Path, as_json: bool) -> None:
    """Print the state and the table of the run in the folder RUN, also while it is worked on."""
    from ..store import Store

    with Store(run) as store:
        state, failures, table = store.state(), store.failures(), store.table()
    if as_json:
        rows = [{name: None if value != value else value for name, value in dataclasses.asdict(row).items()} for row in table]
        told = {"state": said(state), "done": state.done, "asked": state.total, "seconds": round(state.seconds, 3)}
        click.echo(json.dumps({**told, "failures": [each._asdict() for each in failures], "table": rows}, allow_nan=False))
        return
    click.echo(f"{run}: {said(state)}")
    latest = {worker: (since, doing) for worker, since, doing in sorted(state.working, key=lambda each: each[1])}
    for worker, (since, doing) in latest.items():
        click.echo(f"  {worker}: {doing}, for {max(0, time.time() - since):.0f} s")
    if table:
        click.echo(f"{table}")
    for each in failures[:10]:
        click.echo(f"failed: {each.id} ({each.stage}): {each.reason}")
    if len(failures) > 10:
        click.echo(f"failed: {len(failures) - 10} more")


def said(state: State) -> str:
    """A run's state in a line."""
    share = f"{state.done} of {state.total} pairs of image and method ({state.done / max(state.total, 1):.0%})"
    how = state.sessions[-1][2] if state.sessions else "not begun"
    if how == "running" and time.time() - state.sessions[-1][1] > 60:
        how = "not heard of for a minute"
    return f"{how}; {share}; {state.failed} images failed; {state.seconds:.0f} s in {len(state.sessions)} sessions"
