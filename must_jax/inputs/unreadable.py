"""Images and labels that cannot be read while a run goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from must_jax.data.batching import Batch, Source
from must_jax.engine import distributed
from must_jax.errors import UserError
from must_jax.progress import say

MAX_UNREADABLE = 0.01  # share of the images; with more, the data is not what the user thinks it is


def lengths_of(sources: Sequence[Source]) -> dict[str, int]:
    """Image set -> number of images."""
    return {source.images.name: len(source.images) for source in sources}


class Unreadable:
    """Images and labels that could not be read: named once and counted; too many of them end the run.

    A single process checks this itself; several processes, which read parts of the batches, check when they compare.
    """

    def __init__(self, images: Mapping[str, int]) -> None:
        """`images`: image set -> its length."""
        self.found: dict[str, str] = {}  # what -> why
        self._images = images
        self._most = max(1, int(MAX_UNREADABLE * sum(images.values())))

    def add(self, what: str, why: str) -> None:
        if what not in self.found:
            self.found[what] = why
            say(f"skipped: {what}, {why}")

    def guard(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches.

        Raises:
          UserError: more than 1 % of the images cannot be read.
        """
        alone = distributed.processes() == 1
        for batch in batches:
            if alone:
                self._check()
            yield batch
        if alone:
            self._check()  # errors that occurred during the last batch

    def shares(self) -> dict[str, float]:
        """ "unreadable/image set" -> share of its images, over all processes; sets without any are omitted.

        Raises:
          UserError: as `guard`, in all processes.
        """
        for others in distributed.gather(dict(self.found)):  # a copy: reader threads keep adding to it
            for what, why in others.items():
                self.add(what, why)
        self._check()
        counts = Counter(what.rpartition("[")[0] for what in dict(self.found))
        return {f"unreadable/{name}": count / self._images[name] for name, count in counts.items()}

    def _check(self) -> None:
        if len(self.found) > self._most:
            raise UserError(f"{len(self.found)} images cannot be read (listed above); repair the data")
