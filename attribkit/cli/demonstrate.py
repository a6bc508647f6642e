"""`attribkit demo`: the tour in the box."""

from __future__ import annotations

from pathlib import Path

import click

from .options import bar, folder


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("attribkit-demo"), show_default=True, help="Folder to write to."
)
@click.option("--count", type=click.IntRange(1), default=8, show_default=True, help="How many images to make and explain.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def demo(out: Path, count: int, as_json: bool) -> None:
    """Explain the embedded models on images made for the purpose, and say which methods find what each looks at."""
    from ..demo import write_demo

    with bar("map") as progress:
        done = write_demo(folder(out), count, progress)
    click.echo(done.json() if as_json else f"{done}\nOpen {done.page}")
