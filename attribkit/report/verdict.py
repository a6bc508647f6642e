"""What an evaluation says in a sentence or two: who leads, who cannot be told apart, and whether a map that knows nothing does as well."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import AttribkitError
from ..methods.base import method
from ..methods.controls import Oracle
from ..registry import short
from ..scores import Key, Scores
from ..scoring.resampling import holm, sign_flips
from ..scoring.summaries import Summary
from .boards import Board, Subject, boards_of
from .choosing import ByImage
from .scales import Numbers, written

NAME = 60  # characters of a name in a sentence
LEVEL = 0.05  # at which a difference is significant
EXAMPLES, CASES = 3, 2  # so many methods and so many questions are named in a sentence


@dataclasses.dataclass(frozen=True, eq=False)
class Standing:
    """Where every method stands: the boards, and the rank of a method on each (absent for controls and without scores)."""

    scores: Scores
    boards: Sequence[Board]
    ranks: dict[tuple[Subject, str], int]
    read: ByImage

    @classmethod
    def of(cls, scores: Scores) -> Standing:
        """Ask everything that the page says of means: table, comparisons and ranks."""
        places = scores.ranking()
        ranks = {((each.problem, each.model, each.metric), each.method): each.rank for each in places if each.rank is not None}
        return cls(scores, boards_of(scores.table(), scores.compare_all()), ranks, ByImage.of(scores))

    @property
    def floors(self) -> set[str]:
        """The controls that know nothing of the model; the others know the answer."""
        return {each for each in self.scores.controls if not _knows(each)}

    @property
    def asked(self) -> list[Board]:
        """The boards that rank at least one method."""
        return [board for board in self.boards if self.ranked(board)]

    def ranked(self, board: Board) -> list[Summary]:
        """The rows of methods that have a rank, from the best."""
        return [row for row in board.rows if (board.subject, row.method) in self.ranks]

    def leaders(self, board: Board) -> list[str]:
        """The methods of rank 1, from the best mean."""
        return [row.method for row in self.ranked(board) if self.ranks[board.subject, row.method] == 1]


class Verdict(NamedTuple):
    """Sentences to read first, and sentences that warn."""

    said: list[str]
    warnings: list[str]


def verdict(standing: Standing) -> Verdict:
    """Who leads by how many metrics, who cannot be told apart, and which metrics a control passes as well."""
    boards = standing.asked
    if not boards:
        return Verdict(["No method has a score on any image."], [])
    methods = list(dict.fromkeys(row.method for board in boards for row in standing.ranked(board)))
    if len(methods) == 1:
        said = [f"{_name(methods[0])} is the only method that was scored, so that there is nothing but controls to compare it with."]
    elif len(boards) == 1:
        said = [_alone(standing, boards[0])]
    else:
        said = [*_leading(standing, boards), *_shared(standing, boards)]
    against, warnings = _against_controls(standing, boards)
    return Verdict([*said, *against], warnings)


def _alone(standing: Standing, board: Board) -> str:
    """The one question that was asked."""
    leaders, count = standing.leaders(board), len(standing.ranked(board))
    by = f"by {_question(board, several=True)}"
    if len(leaders) == count:
        return f"{_names(leaders, count)} cannot be told apart {by}."
    others = f"ahead of {_counted(count - len(leaders), 'other method')}"
    if len(leaders) == 1:
        return f"{_name(leaders[0])} leads {by}, {others}."
    return f"{_names(leaders, len(leaders))} lead {by}, {others}, and cannot be told apart."


def _leading(standing: Standing, boards: Sequence[Board]) -> list[str]:
    """Who is among the best how often."""
    led = [standing.leaders(board) for board in boards]
    if all(len(leaders) == len(standing.ranked(board)) for board, leaders in zip(boards, led, strict=True)):
        return [f"No method can be told apart from another {_by(boards)} any of {_questions(boards)}."]
    times = {name: sum(name in leaders for leaders in led) for name in dict.fromkeys(name for leaders in led for name in leaders)}
    alone = {name: sum(leaders == [name] for leaders in led) for name in times}
    most = max(times.values())
    best = [name for name in times if times[name] == most]
    by = f"{_by(boards)} {most} of {_questions(boards)}"
    solely = ", ".join(f"{_name(name)} alone {_by(boards)} {alone[name]}" for name in best[:EXAMPLES] if alone[name])
    if len(best) == 1:
        first = f"{_name(best[0])} is among the best {by}{f', {_by(boards)} {alone[best[0]]} of them alone' if alone[best[0]] else ''}"
    else:
        first = f"{_names(best, len(best))} are each among the best {by}{f', {solely}' if solely else ''}"
    rest = sorted((name for name in times if name not in best), key=lambda name: -times[name])
    others = ", ".join(f"{_name(name)} {_by(boards)} {times[name]}" for name in rest[:EXAMPLES])
    more = f" and {len(rest) - EXAMPLES} more by fewer" if len(rest) > EXAMPLES else ""
    return [f"{first}{f'; {others}{more}' if others else ''}."]


def _shared(standing: Standing, boards: Sequence[Board]) -> list[str]:
    """Where those that lead cannot be told apart, if there are others behind them somewhere."""
    ties = [(board, leaders) for board in boards if len(leaders := standing.leaders(board)) > 1]
    if not ties or all(len(standing.leaders(board)) == len(standing.ranked(board)) for board in boards):
        return []
    sets = {frozenset(leaders) for _, leaders in ties}
    if len(sets) == 1:
        return [f"{_names(ties[0][1], len(ties[0][1]))} share first place {_by(boards)} {len(ties)} of them: they cannot be told apart."]
    several = not _metrics_alone(boards)
    named = "; ".join(f"{_question(board, several=several)}: {_names(leaders, len(leaders))}" for board, leaders in ties[:CASES])
    more = f"; and {len(ties) - CASES} more" if len(ties) > CASES else ""
    return [f"{_by(boards).title()} {len(ties)} of them methods share first place and cannot be told apart ({named}{more})."]


def _against_controls(standing: Standing, boards: Sequence[Board]) -> tuple[list[str], list[str]]:
    """Whether the best method is better than every map that knows nothing of the model: what to say, and what to warn of."""
    asked = [board for board in boards if any(row.method in standing.floors and row.count for row in board.rows)]
    if not asked:
        return ["No control was scored, so that it is not known what a map would score that knows nothing of the model."], []
    level = [(board, floor) for board in asked if (floor := _unbeaten(standing, board)) is not None]
    if not level:
        by = f"{_by(boards).title()} each of them the" if len(asked) == len(boards) else "Where there are controls, the"
        by = by if len(boards) > 1 else "The"
        return [f"{by} best method is significantly better than the controls, which know nothing of the model."], []
    several = not _metrics_alone(boards)
    named = "; ".join(
        f"{_question(board, several=several)}: {_name(floor.method)} {written(floor.mean)}, "
        f"best method {_name((best := standing.ranked(board)[0]).method)} {written(best.mean)}"
        for board, floor in level[:CASES]
    )
    more = f"; and {len(level) - CASES} more" if len(level) > CASES else ""
    whole = f"{_by(boards).title()} {len(level)} of {_questions(boards)} no" if len(boards) > 1 else "No"
    end = "A good score there says little about a method."
    return [], [f"{whole} method is significantly better than a control that knows nothing of the model ({named}{more}). {end}"]


def _unbeaten(standing: Standing, board: Board) -> Summary | None:
    """The best control that the best method is not significantly better than (Holm's correction for all controls), if there is one."""
    sign = 1 if board.rows[0].higher_is_better else -1
    best = standing.read.scores[_key(board, standing.ranked(board)[0].method)]
    floors = [row for row in board.rows if row.method in standing.floors and row.count]
    gains = [sign * _paired(best, standing.read.scores[_key(board, row.method)]) for row in floors]
    beaten = [len(gain) > 0 and gain.mean() > 0 and p < LEVEL for gain, p in zip(gains, holm(sign_flips(gains)).tolist(), strict=True)]
    return next((row for row, lost in zip(floors, beaten, strict=True) if not lost), None)


def _key(board: Board, method: str) -> Key:
    problem, model, metric = board.subject
    return Key(problem, model, method, metric)


def _paired(one: Mapping[str, float], other: Mapping[str, float]) -> Numbers:
    """The differences of the images that both have a score of, in the order of their ids."""
    differences = np.array([one[name] - other[name] for name in sorted(one.keys() & other.keys())], np.float64)
    return differences[np.isfinite(differences)]


def _knows(control: str) -> bool:
    """Whether a control is the mask itself: no method is expected to beat it."""
    try:
        return isinstance(method(control), Oracle)
    except AttribkitError:  # a name that a person gave, which is no call
        return False


def _question(board: Board, *, several: bool) -> str:
    problem, _, metric = board.subject
    return f"{_name(metric)} on {_name(problem)}" if several else _name(metric)


def _by(boards: Sequence[Board]) -> str:
    """Methods lead by metrics, and in rankings."""
    return "by" if _metrics_alone(boards) else "in"


def _questions(boards: Sequence[Board]) -> str:
    """How many were asked, in words: metrics, or where there are several problems or models, rankings."""
    return _counted(len(boards), "metric") if _metrics_alone(boards) else f"{len(boards)} rankings (one for each metric and problem)"


def _metrics_alone(boards: Sequence[Board]) -> bool:
    return len({board.subject[:2] for board in boards}) == 1


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _names(names: Sequence[str], count: int) -> str:
    """Some of `count` names, joined as in a sentence."""
    if count > EXAMPLES + 1:
        return f"{', '.join(map(_name, names[:EXAMPLES]))} and {count - EXAMPLES} more"
    return " and ".join([part for part in (", ".join(map(_name, names[:-1])), _name(names[-1])) if part])


def _name(name: str) -> str:
    return short(" ".join(name.split()), NAME)
