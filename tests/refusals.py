"""Calls that must fail, in one line each."""

import pytest

from bioface.errors import BiofaceError


def refused(message, function, *given, **options):
    """The function does not take what it is given, and its error says so (``message`` is a pattern)."""
    with pytest.raises(BiofaceError, match=message):
        function(*given, **options)
