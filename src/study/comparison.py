"""``make test``'s last part: notebooks run under nbval, every output held to the committed one.

An output is compared exactly, unless its cell has a tag. ``tolerance-5`` lets numbers differ by 5 % (what a training
gives is not the same on every processor), but no word: PASS stays PASS. ``optional-data`` says that the output depends
on files that a reader may not have: it is compared where there are none. ``nbval-ignore-output`` is for times alone.
"""

import functools
import os
import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from bioface import paths
from study import cache

TOLERANCE = re.compile(r"tolerance-(\d+)")  #: a tag, in per cent
PRINTED = re.compile(r"[-−+]?(?:\d{1,3}(?:[ ,]\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?")  #: a number in a text


def agree(one: str, other: str, tolerance: float) -> bool:
    """Whether two texts have the same words, and the same numbers within a tolerance, however they are spaced.

    Parameters
    ----------
    tolerance : of the larger number, 0 to 1; decimals may differ by one unit of their last digit too

    >>> agree("RMSE 0.0124  PASS", "RMSE  0.0126 PASS", 0.02), agree("3 of 4 PASS", "3 of 4 FAIL", 0.5)
    (True, False)
    """
    if PRINTED.sub("#", one).split() != PRINTED.sub("#", other).split():
        return False
    numbers = (map(_value, PRINTED.findall(text)) for text in (one, other))
    return all(_close(a, b, tolerance) for a, b in zip(*numbers, strict=True))


def _value(text: str) -> Decimal:
    return Decimal(re.sub("[ ,]", "", text).replace("−", "-"))


def _close(a: Decimal, b: Decimal, tolerance: float) -> bool:
    last = max(int(number.as_tuple().exponent) for number in (a, b))
    unit = Decimal(10) ** last if last < 0 else Decimal(0)  # a count is a count
    return abs(a - b) <= max(unit, Decimal(tolerance) * max(abs(a), abs(b)))


class Printed(str):
    """An output that differs from another where they do not :func:`agree`."""

    tolerance = 0.0

    @classmethod
    def within(cls, tolerance: float, text: Any) -> Any:
        """A text with its tolerance; what is no text as it is."""
        shown = cls(text) if isinstance(text, str) else text
        if isinstance(shown, Printed):
            shown.tolerance = tolerance
        return shown

    def __ne__(self, other: object) -> bool:
        """What nbval asks."""
        return not agree(self, str(other), self.tolerance)


class Tags:
    """The tags that nbval does not know, as a plug-in of pytest."""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Called with the cells that nbval has found."""
        has_data = bool(cache.data_files(paths.data()))
        for item in items:
            tags = item.cell.metadata.get("tags", [])
            for found in filter(None, map(TOLERANCE.fullmatch, tags)):
                item.sanitize = functools.partial(Printed.within, int(found[1]) / 100)
            if "optional-data" in tags and has_data:
                item.options["check"] = False


def compare(notebooks: Iterable[Path]) -> int:
    """Run notebooks and compare; 0 when all outputs agree.

    Figures go to ``build/compare/``. What trainings gave is kept as for ``make reproduce``, and taken from there.
    """
    import pytest  # of the tests only

    os.environ["BIOFACE_FIGURES"] = str(paths.build() / "compare" / "figures")
    ours = ["addopts=", "filterwarnings=", "timeout=0"]  # which are for unit tests
    options = ["--nbval", "-q", "-p", "no:cacheprovider", *(f"--override-ini={option}" for option in ours)]
    return int(pytest.main([*options, *map(str, notebooks)], plugins=[Tags()]))
