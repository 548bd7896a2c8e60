"""The one kind of error for bad input, which is checked where it enters: where, what was expected, what was found."""

from __future__ import annotations

import difflib
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class BiofaceError(ValueError):
    """Bad input of any kind; the message says what was expected and what was found."""


class DataError(BiofaceError):
    """A file that is missing, damaged, or not what its format says.

    Parameters
    ----------
    path : the file (or folder) at fault; its name opens the message
    expected : what should have been there
    found : what was there instead
    """

    def __init__(self, path: str | Path, expected: str, found: str):
        self.path, self.expected, self.found = Path(path), expected, found
        super().__init__(f"{self.path}: expected {expected}, found {found}")

    def __reduce__(self) -> tuple[Any, ...]:  # a DataLoader worker hands its errors over by pickle
        return type(self), (self.path, self.expected, self.found)


def print_anywhere() -> None:
    """Let ``print`` write "?" for what an output of ASCII or cp1252 cannot show, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def unknown_name(kind: str, name: object, known: Iterable[str]) -> BiofaceError:
    """The error for a misspelt name, with the nearest known one suggested.

    >>> print(unknown_name("solver", "varpo", ["varpro", "lm"]))
    unknown solver 'varpo'; did you mean 'varpro'? Known: lm, varpro
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return BiofaceError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}")
