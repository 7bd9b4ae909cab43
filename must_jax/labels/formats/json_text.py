"""Reads a JSON file a part at a time, by Python's own parser and as strictly."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from json.decoder import WHITESPACE, JSONDecodeError  # type: ignore[attr-defined]
from typing import Any, BinaryIO

_CHUNK = 2**20  # bytes
_LONGEST = 2**26  # characters of the longest text: an error farther from the end is not due to what is still to come
_TOGETHER = 1024  # items of a list


class NotAnObject(Exception):
    """The file is JSON, but no object."""


class JsonText:
    """A file that holds an object. Only a part of it, and at most one item of its lists, is in memory.

    Args:
      file: encoded in any way that JSON allows.
      pairs: makes an object of its keys and values.

    Attributes:
      advance: called with the number of bytes that have been read.
    """

    def __init__(self, file: BinaryIO, pairs: Callable[[list[tuple[str, Any]]], Any]) -> None:
        self._file, self._scan = file, json.JSONDecoder(object_pairs_hook=pairs).raw_decode
        self.advance: Callable[[int], None] = lambda count: None
        self._bytes = 0  # that have been read
        self._text, self._at, self._ended = "", 0, False  # in memory; what is next in it; whether the file ends there
        self._chars, self._lines, self._column = 0, 0, 0  # before the text; characters since the last line feed
        self._decoder: codecs.IncrementalDecoder | None = None

    def parts(self) -> Iterator[tuple[str, int, Any]]:
        """Key, 0 and value of everything in the object; a list in parts, each with the number of its first item.

        Raises:
          ValueError: the file is not JSON.
          RecursionError: it is nested too deeply.
          NotAnObject: it is something else.
        """
        if self._next() != "{":
            self._value()
            raise NotAnObject
        self._at += 1
        more = self._next() != "}"
        while more:
            if self._next() != '"':
                raise self._error("Expecting property name enclosed in double quotes", self._at)
            name = self._value()
            self._expect(":")
            if self._next() == "[":
                yield from ((name, start, items) for start, items in self._items())
            else:
                yield name, 0, self._value()
            more = self._is_followed("}")
        self._at += 1
        if self._next():
            raise self._error("Extra data", self._at)

    def _items(self) -> Iterator[tuple[int, list[Any]]]:
        """The list that is next, in parts; at least one, which may be empty."""
        self._at += 1
        start = 0
        items: list[Any] = []
        more = self._next() != "]"
        while more:
            if len(items) == _TOGETHER:
                yield start, items
                start, items = start + len(items), []
            self._next()
            items.append(self._value())
            more = self._is_followed("]")
        self._at += 1
        yield start, items

    def _is_followed(self, end: str) -> bool:
        """Whether a comma follows, and not `end`; passes the comma."""
        if self._next() == end:
            return False
        if self._next() != ",":
            raise self._error("Expecting ',' delimiter", self._at)
        self._at += 1
        return True

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise self._error(f"Expecting '{character}' delimiter", self._at)
        self._at += 1

    def _next(self) -> str:
        """The next character that is no white space; "" = the file ends."""
        while True:
            text, at = self._text, self._at
            if at < len(text) and text[at] > " ":
                return text[at]
            self._at = WHITESPACE.match(text, at).end()
            if self._at < len(text):
                return text[self._at]
            if self._ended:
                return ""
            self._more()

    def _value(self) -> Any:
        """The value that is next, without white space before it."""
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except JSONDecodeError as error:
                if self._ended or len(self._text) - error.pos > _LONGEST:
                    raise self._error(error.msg, error.pos) from None
            else:
                if end + len("e+") < len(self._text) or self._ended:  # otherwise it may be a part of a number
                    self._at = end
                    return value
            self._more()

    def _more(self) -> None:
        """Reads on, in ever larger steps while one value is not at its end, and forgets what has been passed."""
        passed = self._text[: self._at]
        self._chars += len(passed)
        if lines := passed.count("\n"):
            self._lines, self._column = self._lines + lines, len(passed) - 1 - passed.rindex("\n")
        else:
            self._column += len(passed)
        self._text, self._at = self._text[self._at :], 0
        data = self._file.read(max(_CHUNK, 2 * len(self._text)))
        self._ended = not data
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder(json.detect_encoding(data))("surrogatepass")
        try:
            self._text += self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise ValueError(f"it is not {error.encoding} near byte {self._bytes + error.start}") from None
        self._bytes += len(data)
        self.advance(len(data))

    def _error(self, message: str, at: int) -> ValueError:
        """With the place in the file, as Python's parser says it."""
        lines, start = self._text.count("\n", 0, at), self._text.rfind("\n", 0, at)
        column = at - start if lines else self._column + at + 1
        return ValueError(f"{message}: line {self._lines + lines + 1} column {column} (char {self._chars + at})")
