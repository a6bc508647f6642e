"""In which line of a TOML text each key stands: what its reader does not tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

Keys = tuple[str | int, ...]

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # a string of several lines may end in two quotes of its own
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*|\n|[\[\]{}=,.]"
    r"""|[^\s\[\]{}=,.#"']+""",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def positions(text: str) -> dict[Keys, int]:
    """Keys -> line, counted from 1, of every key, table and list item of `text`, which must be TOML: ("methods", 1, "steps") -> 9."""
    return _Scanner(text).found


class _Scanner:
    """Walks over the tokens once; what it stands on is `token`, and "" is the end."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self.found: dict[Keys, int] = {}
        self._arrays: dict[Keys, int] = {}  # how many tables there are of each list of tables
        self.token, self.line = "", 0
        self._step()
        table: Keys = ()
        while self.token:
            if self.token == "\n":
                self._step()
            elif self.token == "[":
                table = self._header()
            else:
                self._pair(table)

    def _step(self) -> None:
        self.token, self.line = next(self._tokens, ("", self.line))

    def _header(self) -> Keys:
        """[table] or [[table of a list]]; gives the keys that it begins."""
        line, several = self.line, False
        self._step()
        if self.token == "[":
            several = True
            self._step()
        keys = self._in_lists(self._dotted(), several=several)
        self.found.setdefault(keys, line)
        while self.token == "]":
            self._step()
        return keys

    def _in_lists(self, names: list[str], *, several: bool) -> Keys:
        """The names of a header as keys: a list of tables means its last one, or a new one."""
        keys: Keys = ()
        for place, name in enumerate(names):
            keys = (*keys, name)
            self.found.setdefault(keys, self.line)
            if several and place == len(names) - 1:
                self._arrays[keys] = self._arrays.get(keys, -1) + 1
            if keys in self._arrays:
                keys = (*keys, self._arrays[keys])
        return keys

    def _pair(self, table: Keys) -> None:
        """A key, which may have dots, and its value."""
        keys = table
        for name in self._dotted():
            keys = (*keys, name)
            self.found.setdefault(keys, self.line)
        self._step()  # over the equals sign
        self._value(keys)

    def _dotted(self) -> list[str]:
        names = []
        while self.token not in ("=", "]", ""):
            if self.token != ".":
                names.append(_name(self.token))
            self._step()
        return names

    def _value(self, keys: Keys) -> None:
        if self.token == "[":
            self._items(keys)
        elif self.token == "{":
            self._step()
            while self.token not in ("}", ""):
                if self.token in (",", "\n"):
                    self._step()
                else:
                    self._pair(keys)
            self._step()
        else:
            while self.token not in ("\n", ",", "]", "}", ""):
                self._step()

    def _items(self, keys: Keys) -> None:
        self._step()
        place = 0
        while self.token not in ("]", ""):
            if self.token in (",", "\n"):
                self._step()
            else:
                self.found.setdefault((*keys, place), self.line)
                self._value((*keys, place))
                place += 1
        self._step()


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """The tokens without comments, each with its line."""
    line = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if not token.startswith("#"):
            yield token, line
        line += token.count("\n")


def _name(token: str) -> str:
    """A key without its quotes."""
    if token.startswith("'"):
        return token[1:-1]
    return _ESCAPE.sub(_unescaped, token[1:-1]) if token.startswith('"') else token


def _unescaped(match: re.Match[str]) -> str:
    short, long, other = match.groups()
    return chr(int(short or long, 16)) if other is None else _ESCAPES.get(other, other)
