"""A snapshot as text for Prometheus: the text format 0.0.4, and OpenMetrics 1.0.

prometheus-client writes both, but takes ten times as long for some thousand lines, in which nobody is served. So it is
asked which format to write and to read the process's own numbers; tests have its parsers read what is written here.
"""

import asyncio
import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

from proxy.admin.families import FAMILIES, Family, Kind, Sample, Snapshot
from proxy.flow.tally import BOUNDS

_LIMITS: Final = (*[str(bound) for bound in BOUNDS], "+Inf")
_LINES: Final = 300  # written before others have their turn: less than half a millisecond's work
_ESCAPED: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


async def written(snapshot: Snapshot, *, several: bool, open_metrics: bool) -> bytes:
    """All families of which there is a number; of `several` processes where it says which is whose."""
    text, lines = [], _LINES  # to read the snapshot was work enough
    for name, samples in snapshot.items():
        family = FAMILIES[name]
        text.append(_preamble(family, open_metrics=open_metrics))
        labels = (*family.labels, "worker") if family.each and several else family.labels
        for sample in (
            _histogram(name, labels, samples) if family.kind is Kind.HISTOGRAM else _plain(name, labels, samples)
        ):
            text.append(sample)
            lines += 1 if family.kind is not Kind.HISTOGRAM else len(_LIMITS)
            if lines >= _LINES:
                lines = 0
                await asyncio.sleep(0)
    if open_metrics:
        text.append("# EOF\n")
    return "".join(text).encode()


def _preamble(family: Family, *, open_metrics: bool) -> str:
    # OpenMetrics names the family of a counter without what its only sample ends in.
    name = family.name.removesuffix("_total") if open_metrics and family.kind is Kind.COUNTER else family.name
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.kind.value}\n"


def _plain(name: str, labels: Sequence[str], samples: Sequence[Sample]) -> Iterator[str]:
    for values, value in samples:
        braced = f"{{{_pairs(labels, values)}}}" if labels else ""
        yield f"{name}{braced} {_number(value)}\n"


def _histogram(name: str, labels: Sequence[str], samples: Sequence[Sample]) -> Iterator[str]:
    for values, (counts, total) in samples:
        pairs = _pairs(labels, values)
        braced, after = (f"{{{pairs}}}", f",{pairs}") if pairs else ("", "")
        up_to = list(accumulate(counts))
        lines = [f'{name}_bucket{{le="{limit}"{after}}} {below}\n' for limit, below in zip(_LIMITS, up_to, strict=True)]
        yield f"{''.join(lines)}{name}_count{braced} {up_to[-1]}\n{name}_sum{braced} {_number(total)}\n"


def _pairs(labels: Sequence[str], values: Sequence[str]) -> str:
    return ",".join([f'{label}="{value.translate(_ESCAPED)}"' for label, value in zip(labels, values, strict=True)])


def _number(value: Any) -> str:  # noqa: ANN401 - a number, from JSON where there are several processes
    if isinstance(value, float) and math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(value)
