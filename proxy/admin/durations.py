"""Durations in a query and on the command line, written as in the configuration."""

import re
from typing import Final

_DURATION: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)|0", re.ASCII)
_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def seconds(text: str) -> float | None:
    """Seconds, to the millisecond; None where it is no duration."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    number, unit = match.groups()
    return round(float(number) * _MILLISECONDS[unit]) / 1000 if number else 0.0
