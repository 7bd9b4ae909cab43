"""Errors in labels: reports many at once, so that files need not be fixed one at a time."""

from __future__ import annotations

from collections.abc import Sequence

from must_jax.errors import UserError
from must_jax.progress import say

MOST_NAMED = 20  # with more, something is wrong with all of them


class Refusal(UserError):
    """Labels that were refused; `problems` are the first of them, as sentences."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = problems


def refusal(problems: Sequence[str], count: int = 0, of: str = "") -> Refusal:
    """The first problem as an error; prints the others, up to MOST_NAMED in all.

    Args:
      count: how many there really are.
      of: " of the first 64", if not all labels were looked at.
    """
    count = count or len(problems)
    for each in problems[1:MOST_NAMED]:
        say(f"refused as well: {each}")
    return Refusal(problems[0] + (f" (labels refused: {count}{of})" if count > 1 else ""), problems[:MOST_NAMED])
