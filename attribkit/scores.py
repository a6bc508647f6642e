"""Scores: a row for each problem, model, method, metric and image."""

from __future__ import annotations

import dataclasses
import importlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import BadInput, Unavailable, UnknownName
from .files import write_whole
from .scoring.files import FIXED, read_table, written_table
from .scoring.parts import Column, Images, Part, joined, pile
from .scoring.resampling import effect, holm, intervals, sign_flips
from .scoring.summaries import Comparison, Label, Listing, Place, Summary

if TYPE_CHECKING:
    from torch import Tensor

    from .batch import Batch

# So many batches' scores may wait where they are, since to fetch each would wait for the device, and since small tensors that stay, each
# between large ones that go, keep the memory of those from being used again.
WAITING = 256


class Key(NamedTuple):
    """What a score is of, in words: the problem's label, the model's name, the method and the metric as they print themselves."""

    problem: str
    model: str
    method: str
    metric: str


class Failure(NamedTuple):
    """What could not be done: which image or method it was, at which stage ("read", "explain", "write", or a metric's name), and why."""

    id: str
    stage: str
    reason: str


class Scores:
    """Scores of images, in single precision, and what can be said of them.

    `add` keeps tensors where they are; they come to the host together, many at a time. A score that is not finite counts as
    undefined. `failures` lists what could not be done, `controls` the methods that are a floor or a ceiling. Methods, metrics and
    problems are named as they print themselves; case, underscores and an empty "()" do not matter ("grad_cam" finds "GradCAM()").
    Intervals and tests are those of `scoring.resampling`, from a fixed seed over the images in the order of their ids, so that neither
    batches nor the order of adding changes a number.
    """

    def __init__(self, *, controls: Iterable[str] = ()) -> None:
        self.controls: set[str] = set(controls)
        self.failures: list[Failure] = []
        self._images = Images()
        self._piles: dict[Key, list[Column]] = {}
        self._parts: dict[Key, list[Part]] = {}
        self._waiting = 0
        self._higher: dict[str, bool] = {}

    def add(  # noqa: PLR0913 - what is added, and what is known of it
        self,
        key: Key,
        batch: Batch,
        values: Tensor,
        *,
        chances: Tensor | None = None,
        higher_is_better: bool = True,
        control: bool = False,
    ) -> None:
        """Add the scores of a batch, (B,), and of a map that says nothing, `chances` (B,); an image has one score under each key."""
        for what, given in (("values", values), ("chances", chances)):
            if given is not None and tuple(getattr(given, "shape", ())) != (len(batch),):
                got = tuple(given.shape) if hasattr(given, "shape") else type(given).__name__
                raise BadInput(f"Scores.add({what}=...): got {got}, allowed: a ({len(batch)},) tensor")
        taken = next((name for name in batch.groups if name in FIXED), None)
        if taken is not None:
            raise BadInput(f"Scores.add: a group is called {taken!r}, allowed: any name but {', '.join(FIXED)}")
        self._check_direction(key.metric, higher_is_better)
        about = self._images.about(batch)
        self._images.claim(key, about.index, self._allowed(key))
        self._higher[key.metric] = higher_is_better
        self._parts.setdefault(key, []).append(Part(about, values.detach(), None if chances is None else chances.detach()))
        self._waiting += 1
        if self._waiting >= WAITING:
            self._collect()
        if control:
            self.controls.add(key.method)

    def _check_direction(self, metric: str, higher: bool) -> None:
        if self._higher.get(metric, higher) != higher:
            raise BadInput(f"{metric}: got higher_is_better={higher}, allowed: one direction for all scores of a metric")

    @staticmethod
    def _allowed(key: Key) -> str:
        return f"allowed: one score for each image by {key.metric} of {key.method} on {key.problem}"

    def keys(self) -> list[Key]:
        """What there are scores of, in the order in which they came; looks at no score."""
        return list(dict.fromkeys([*self._piles, *self._parts]))

    def __len__(self) -> int:
        """How many rows there are."""
        return self._images.claimed

    def __add__(self, other: Scores) -> Scores:
        return Scores.merged([self, other])

    def __getstate__(self) -> dict[str, Any]:
        self._read()
        return self.__dict__

    def __repr__(self) -> str:
        return f"<Scores: {len(self)} rows of {len(self.keys())} methods by metrics, {len(self.failures)} failures>"

    @classmethod
    def merged(cls, several: Iterable[Scores]) -> Scores:
        """One of several, which share no row."""
        whole = cls()
        for each in several:
            for part in each.columns():
                whole.enter(*part)
            whole.controls |= each.controls
            whole.failures += each.failures
        return whole

    def columns(self) -> Iterator[tuple[Key, list[str], Column, bool]]:
        """What `enter` takes: everything under each key, the ids of its images, and whether higher is better."""
        for key, column in self._read().items():
            yield key, self._images.names(column.index), column, self._higher[key.metric]

    def enter(self, key: Key, ids: Sequence[str], column: Column, higher: bool) -> None:
        """Add many scores under one key, of the images called `ids`; each has one score under a key."""
        self._check_direction(key.metric, higher)
        index = self._images.index(ids)
        self._images.claim(key, index, self._allowed(key))
        self._higher[key.metric] = higher
        pile(self._piles.setdefault(key, []), dataclasses.replace(column, index=index))

    def _collect(self) -> None:
        """Move what has come since the last time to the host."""
        for key, column in Part.hosted(self._parts).items():
            pile(self._piles.setdefault(key, []), column)
        self._parts, self._waiting = {}, 0

    def _read(self) -> dict[Key, Column]:
        """Every score, on the host."""
        self._collect()
        self._piles = {key: [joined(columns)] for key, columns in self._piles.items()}
        return {key: column for key, (column,) in self._piles.items()}

    # Rows ------------------------------------------------------------------------------------------------------------------------------

    @property
    def groups(self) -> list[str]:
        """The names by which images are grouped."""
        return sorted({name for column in self._read().values() for name in column.groups})

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a score: problem, model, method, metric, id, target, the groups' labels, score, chance, higher_is_better, control.

        A label is None where the image has none, a chance NaN.
        """
        groups = self.groups
        for key, column in self._read().items():
            after = {"higher_is_better": self._higher[key.metric], "control": key.method in self.controls}
            labels = [column.groups.get(name, [None] * len(column)) for name in groups]
            parts = (self._images.names(column.index), column.targets.tolist(), column.scores.tolist(), column.chances.tolist(), *labels)
            for id_, target, score, chance, *own in zip(*parts, strict=True):
                yield {
                    **key._asdict(),
                    "id": id_,
                    "target": target,
                    **dict(zip(groups, own, strict=True)),
                    "score": score,
                    "chance": chance,
                    **after,
                }

    def name_groups(self, on: Key, names: Mapping[str, Sequence[str]]) -> None:
        """Put names in the place of the codes, 0, 1, ..., of groups, for the problem and the model of `on`; an empty name is no label."""
        if names:
            self._piles = {key: [column.named(names) if key[:2] == on[:2] else column] for key, column in self._read().items()}

    def write_csv(self, path: str | Path) -> Path:
        """Write the rows as CSV, UTF-8, which `read_csv` reads back as they are; the file appears once it is complete.

        `failures` are not in it. Nothing is escaped for spreadsheet programs, which take an id such as "=1+1" for a formula: ids stay
        what they are.
        """
        return write_whole(path, written_table(self.rows(), self.groups))

    @classmethod
    def read_csv(cls, path: str | Path) -> Scores:
        """Scores from a file of `write_csv`; `BrokenFile` names the line that is not as it should be."""
        whole = cls()
        for given, ids, column, higher, control in read_table(path):
            key = Key(*given)
            whole.enter(key, ids, column, higher)
            whole.controls |= {key.method} if control else set()
        return whole

    def frame(self) -> Any:
        """The rows as a pandas DataFrame; `Unavailable` without pandas."""
        return _package("pandas").DataFrame(self._by_column())

    def write_parquet(self, path: str | Path) -> Path:
        """Write the rows as Parquet, in which what of a name is no UTF-8 becomes "?"; `Unavailable` without pyarrow."""
        arrow, parquet, buffer = _package("pyarrow"), _package("pyarrow.parquet"), io.BytesIO()
        columns = {
            name: [value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for value in values]
            for name, values in self._by_column().items()
        }
        parquet.write_table(arrow.table(columns), buffer)
        return write_whole(path, buffer.getvalue())

    def _by_column(self) -> dict[str, list[Any]]:
        names = [*FIXED[:6], *self.groups, *FIXED[6:]]
        rows = list(self.rows())
        return {name: [row[name] for row in rows] for name in names}

    # What is said of them --------------------------------------------------------------------------------------------------------------

    def table(self, *, problem: str | None = None, metric: str | None = None, by: str | None = None) -> Listing[Summary]:
        """Each method's mean by each metric, with its interval; with `by`, the name of a group, one for each of the group's labels."""
        chosen = self._chosen(problem, metric)
        if by is not None and by not in self.groups:
            raise UnknownName("group", by, self.groups)
        parts: list[tuple[Key, Label | None, Column]] = []
        columns = self._read()
        for key in chosen:
            whole = columns[key].sorted(self._images.places)
            parts += [(key, None, whole)] if by is None else [(key, label, part) for label, part in whole.by(by)]
        ends = intervals([part.defined for _, _, part in parts])
        rows = zip(parts, ends.tolist(), strict=True)
        return Listing(_summary(key, label, part, (low, high), self._higher[key.metric]) for (key, label, part), (low, high) in rows)

    def compare(self, a: str, b: str, *, metric: str | None = None, problem: str | None = None) -> Listing[Comparison]:
        """Two methods, paired over the images that both have a score of: one comparison for each problem, model and metric.

        A pair that nothing has in common with another is a family of its own, so `corrected` is `p`; `compare_all` asks about many.
        """
        chosen = self._chosen(problem, metric)
        known = [key.method for key in chosen]
        pair = (_found("method", a, known), _found("method", b, known))
        return Listing(
            each for family in _families(chosen).values() for each in self._compared(family, [pair] if set(pair) <= set(family) else [])
        )

    def compare_all(self, metric: str | None = None, problem: str | None = None, *, controls: bool = False) -> Listing[Comparison]:
        """Every pair of methods, with or without the controls, p-values corrected (Holm) within each problem, model and metric."""
        found: list[Comparison] = []
        for family in _families(self._chosen(problem, metric)).values():
            asked = [name for name in family if controls or name not in self.controls]
            found += self._compared(family, list(combinations(asked, 2)))
        return Listing(found)

    def ranking(self, metric: str | None = None, problem: str | None = None) -> Listing[Place]:
        """The methods from best to worst mean, by each metric on each problem and model.

        A rank is one more than the number of methods that are significantly better (Holm-corrected p < 0.05 among all pairs but
        controls), and no better than that of a method with a better mean; so those that cannot be told apart share one. Controls stand
        among the methods without a rank.
        """
        summaries = {Key(*(getattr(row, field) for field in Key._fields)): row for row in self.table(problem=problem, metric=metric)}
        beaten = self._beaten(self.compare_all(metric, problem))
        places: list[Place] = []
        for (on, model, asked), family in _families(list(summaries)).items():
            sign = -1 if self._higher[asked] else 1
            rows = [summaries[key] for key in family.values()]
            least = 1
            for row in sorted(rows, key=lambda row: (np.isnan(row.mean), sign * row.mean, row.method)):
                own = None
                if row.count and row.method not in self.controls:
                    own = least = max(least, 1 + beaten.get((on, model, asked, row.method), 0))
                places.append(Place(on, model, asked, own, row.method, row.mean, row.low, row.high, row.count))
        return Listing(places)

    @staticmethod
    def _beaten(comparisons: Iterable[Comparison]) -> dict[tuple[str, str, str, str], int]:
        """How many methods are significantly better than each."""
        times: dict[tuple[str, str, str, str], int] = {}
        for each in comparisons:
            if each.better is not None:
                worse = (each.problem, each.model, each.metric, each.b if each.better == each.a else each.a)
                times[worse] = times.get(worse, 0) + 1
        return times

    def _compared(self, family: dict[str, Key], pairs: list[tuple[str, str]]) -> list[Comparison]:
        """Pairs of the methods of one problem, model and metric, as one family of tests."""
        every = self._read()
        columns = {name: every[family[name]].sorted(self._images.places) for name in dict.fromkeys(sum(pairs, ()))}
        differences = [columns[a].minus(columns[b]) for a, b in pairs]
        chances = sign_flips(differences)
        measured = zip(pairs, differences, intervals(differences).tolist(), chances.tolist(), holm(chances).tolist(), strict=True)
        found = []
        for (a, b), values, (low, high), p, corrected in measured:
            on, model, _, metric = family[a]
            mean = float(values.mean()) if len(values) else float("nan")
            found.append(
                Comparison(on, model, metric, a, b, mean, low, high, effect(values), p, corrected, len(values), self._higher[metric])
            )
        return found

    def _chosen(self, problem: str | None, metric: str | None) -> list[Key]:
        """The keys of a problem and a metric, or of all; everything is on the host afterwards."""
        keys = list(self._read())
        for field, name in (("problem", problem), ("metric", metric)):
            if name is not None:
                wanted = _found(field, name, [getattr(key, field) for key in keys])
                keys = [key for key in keys if getattr(key, field) == wanted]
        return keys


def _summary(key: Key, label: Label | None, part: Column, ends: tuple[float, float], higher: bool) -> Summary:
    values, chances = part.defined, part.chances[np.isfinite(part.scores)].astype(np.float64)  # of the same images
    chances = chances[~np.isnan(chances)]
    mean, median = (float(values.mean()), float(np.median(values))) if len(values) else (float("nan"),) * 2
    chance = float(chances.mean()) if len(chances) else float("nan")
    std = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Summary(*key, label, mean, *ends, median, std, len(values), len(part) - len(values), chance, higher)


def _families(keys: Sequence[Key]) -> dict[tuple[str, str, str], dict[str, Key]]:
    """The keys of each problem, model and metric, by method."""
    families: dict[tuple[str, str, str], dict[str, Key]] = {}
    for key in keys:
        families.setdefault((key.problem, key.model, key.metric), {})[key.method] = key
    return families


def _found(kind: str, name: str, known: Sequence[str]) -> str:
    """The label that a name means: the same, or the same but for case, underscores and a trailing "()"."""
    if name in known:
        return name
    near = [label for label in dict.fromkeys(known) if _loose(label) == _loose(name)]
    if len(near) > 1:
        raise BadInput(f"{kind} {name!r}: got a name of several, allowed: one of {', '.join(near)}")
    if not near:
        raise UnknownName(kind, name, known)
    return near[0]


def _loose(label: str) -> str:
    return label.removesuffix("()").replace("_", "").casefold()


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Unavailable(f"{name.partition('.')[0]} is not installed; allowed without it: rows() and write_csv()") from None
