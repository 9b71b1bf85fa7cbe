"""Signal names as Docker takes them."""

from __future__ import annotations

import pytest

from hyper.engine.signals import parse_signal
from hyper.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("rtmax-1", 63), ("RTMIN", 34), ("usr1", 10)],
)
def test_known_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "SIGNOPE", "0", "65", "-9", "RTMIN+31", "RTMAX+1", "9.0", "SIG"])
def test_unknown_signals_are_refused_in_dockers_words(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid signal"):
        parse_signal(text)
