"""The names and forms that parameters have elsewhere: tables of rules, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]  # by path here ("stage1_1/conv1/kernel"), or by name there


class Form(NamedTuple):
    """How a parameter here is made of tensors there, and what they are made of it.

    Attributes:
      read: tensors, and the shape here -> the parameter. It may raise ValueError.
      write: a parameter -> tensors; None for one of which another parameter is made as well, which writes it.
    """

    read: Callable[[Sequence[np.ndarray], tuple[int, ...]], np.ndarray]
    write: Callable[[np.ndarray], tuple[np.ndarray | None, ...]]


SAME = Form(lambda given, shape: given[0], lambda ours: (ours,))
CONV = Form(lambda given, shape: given[0].transpose(2, 3, 1, 0), lambda ours: (ours.transpose(3, 2, 0, 1),))
LINEAR = Form(lambda given, shape: given[0].T, lambda ours: (ours.T,))


class Rule(NamedTuple):
    """Some parameters here, and their tensors there.

    Attributes:
      ours: a regular expression of whole paths; groups are numbers.
      theirs: these numbers -> the names there.
    """

    ours: str
    theirs: Callable[..., str | tuple[str, ...]]
    form: Form = SAME


@dataclass(frozen=True)
class Convention:
    """How a library names the parameters of a family of backbones.

    Attributes:
      prefixes: that all names may have, beside none: of models that contain the backbone.
      heads: a regular expression of names of classifiers and the like, which are no part of a backbone.
      ignored: one of names that mean nothing here, such as counters.
    """

    name: str
    rules: tuple[Rule, ...]
    prefixes: tuple[str, ...] = ()
    heads: str = r"(?!)"
    ignored: str = r"(?!)"

    def names(self, paths: Iterable[str]) -> dict[str, tuple[tuple[str, ...], Form]]:
        """By path here: the names there, and the form. Paths without a rule are left out: they are new here."""
        found = {}
        for path in paths:
            for rule in self.rules:
                if match := re.fullmatch(rule.ours, path):
                    theirs = rule.theirs(*map(int, match.groups()))
                    found[path] = ((theirs,) if isinstance(theirs, str) else theirs, rule.form)
                    break
        return found

    def written(self, ours: Arrays) -> dict[str, np.ndarray]:
        """What a file of this convention has, of parameters here."""
        names = self.names(ours)
        return {
            name: np.ascontiguousarray(tensor)
            for path, (theirs, form) in names.items()
            for name, tensor in zip(theirs, form.write(ours[path]), strict=True)
            if tensor is not None
        }
