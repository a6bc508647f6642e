"""A folder that one run after another writes to: what the earlier one wrote goes, what is anybody else's stays."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import BadInput
from ..files import write_whole

LIST = "written.jsonl"  # one file a line, noted before it is written, so that an interrupted run is known as well


class Output:
    """Files below `path`, each noted in a list, by which the next run knows and removes them before it writes its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begun = False

    def earlier(self) -> list[Path]:
        """The files of an earlier run that are still there: those its list names, if they lie inside the folder."""
        try:
            lines = (self.path / LIST).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return []
        return [path for line in lines if (path := self._named(line)) is not None]

    def _named(self, line: str) -> Path | None:
        try:
            name = json.loads(line)
        except (ValueError, RecursionError):  # the line of a run that was stopped while it wrote it
            return None
        if not isinstance(name, str) or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            return None
        path = self.path / name
        inside = self.path.resolve() in path.parent.resolve().parents or path.parent.resolve() == self.path.resolve()
        return path if inside and path.is_file() else None

    def begin(self, *names: str) -> None:
        """Once: remove what the earlier run wrote; before that, refuse if one of `names` is there and is somebody else's."""
        if self._begun:
            return
        earlier = self.earlier()
        for name in names:
            if (self.path / name).exists() and self.path / name not in earlier:
                raise BadInput(f"{self.path / name}: is there and is not of an earlier run, allowed: another folder to write to")
        for path in (*earlier, self.path / LIST):
            path.unlink(missing_ok=True)
        self._begun = True

    def claim(self, name: str) -> Path:
        """Note that `name` is going to be written; `FileExistsError` where somebody else's file has it."""
        path = self.path / name
        if path.exists():
            raise FileExistsError(17, "there is another file of that name")
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LIST).open("a", encoding="utf-8") as file:
            file.write(json.dumps(name) + "\n")
        return path

    def write(self, name: str, content: bytes) -> Path:
        """Write one file whole, noted before."""
        return write_whole(self.claim(name), content)
