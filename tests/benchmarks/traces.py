"""Request traces for the comparison in eviction.py, made from fixed seeds."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, count, cycle, islice
from typing import Final

OBJECTS: Final = 20_000  # that are asked for again and again; keys above are a scan's
REQUESTS: Final = 300_000  # of one trace
BURST: Final = 3_000  # requests of one burst of a scan
SIZE: Final = 4096  # bytes of an object where all are alike


@dataclass(frozen=True)
class Trace:
    """Requests. A number below 0 is no request but a purge, of the key `~number`."""

    name: str
    keys: Sequence[int]
    sizes: Sequence[int]  # bytes by key
    kind: str = ""  # "scan", or "hostile": made against caches that move nothing on a hit

    @property
    def footprint(self) -> int:
        """Bytes of all objects in the trace but a scan's, of which there are as many as one lets it run."""
        return sum(self.sizes[key] for key in set(self.keys) if 0 <= key < OBJECTS)


def zipf(rng: random.Random, skew: float, requests: int = REQUESTS) -> list[int]:
    """Independent requests; the object of rank r is asked for in proportion to r ** -skew."""
    return rng.choices(_ranked(rng), cum_weights=_weights(skew), k=requests)


def _ranked(rng: random.Random) -> list[int]:
    return rng.sample(range(OBJECTS), OBJECTS)


def _weights(skew: float) -> list[float]:
    return list(accumulate((rank + 1) ** -skew for rank in range(OBJECTS)))


def interleaved(rng: random.Random, skew: float, scan: Iterable[int], share: float) -> list[int]:
    """Zipf and a scan mixed at random, which is `share` of all."""
    popular, scanned = iter(zipf(rng, skew)), iter(scan)
    return [next(scanned) if rng.random() < share else next(popular) for _ in range(REQUESTS)]


def in_bursts(rng: random.Random, skew: float, scan: Iterable[int], share: float) -> list[int]:
    """Zipf, and every so often a burst of a scan, which is `share` of all."""
    popular, scanned = iter(zipf(rng, skew)), iter(scan)
    gap, keys = round(BURST * (1 - share) / share), list[int]()
    while len(keys) < REQUESTS:
        keys += islice(popular, gap)
        keys += islice(scanned, BURST)
    return keys[:REQUESTS]


def drifting(rng: random.Random, skew: float, swaps: int) -> list[int]:
    """Zipf, where every 100 requests some objects change places, most often popular with unpopular ones."""
    ranked, weights, keys = _ranked(rng), _weights(skew), list[int]()
    while len(keys) < REQUESTS:
        keys += rng.choices(ranked, cum_weights=weights, k=100)
        for _ in range(swaps):
            one, other = int(OBJECTS * rng.random() ** 3), rng.randrange(OBJECTS)
            ranked[one], ranked[other] = ranked[other], ranked[one]
    return keys


def replaced(rng: random.Random, skew: float) -> list[int]:
    """Zipf, where ten times, at once, every object gets another popularity."""
    return [key for _ in range(10) for key in zipf(rng, skew, REQUESTS // 10)]


def purged(rng: random.Random, skew: float) -> list[int]:
    """Zipf, of whose requests every 20th is followed by a purge of an object that was just asked for."""
    keys = list[int]()
    for key in zipf(rng, skew):
        keys.append(key)
        if rng.random() < 0.05:
            recent = keys[-rng.randrange(1, min(1000, len(keys)) + 1)]
            keys.append(recent if recent < 0 else ~recent)
    return keys


def news(rng: random.Random) -> list[int]:
    """A new object every 15 requests, each less popular from the moment it is born."""
    return [max(0, i // 15 - int(rng.paretovariate(0.6)) + 1) for i in range(REQUESTS)]


def loop(_rng: random.Random, share: float) -> list[int]:
    """All objects once, so that they are the footprint, and then a share of them in turn, again and again."""
    return list(islice(chain(range(OBJECTS), cycle(range(round(share * OBJECTS)))), REQUESTS))


def window(rng: random.Random, width: int) -> list[int]:
    """Each object is asked for some 15 times while a window passes over it, and never again."""
    return [i // 15 + rng.randrange(width) for i in range(15 * (OBJECTS - width))]


def twice(rng: random.Random, distance: int) -> list[int]:
    """Zipf, between whose requests each key of a scan comes exactly twice, `distance` requests apart."""
    keys = list[int]()
    for i, key in enumerate(zipf(rng, 0.8, REQUESTS // 3)):
        keys += (key, OBJECTS + i, OBJECTS + max(0, i - distance // 3))
    return keys


def log_normal(rng: random.Random, objects: int) -> list[int]:
    """Sizes: median 8 KiB, from 512 bytes to 256 KiB, whatever the popularity."""
    sizes = (int(rng.lognormvariate(math.log(8192), 1.3)) for _ in range(objects))
    return [min(max(size, 512), 262_144) for size in sizes]


def traces() -> Iterator[Trace]:
    """All of them, made one by one. Each has its own seed: its name."""
    for skew in (0.6, 0.8, 1.0, 1.2):
        yield _trace(f"Zipf {skew}", partial(zipf, skew=skew))
        yield from _scans(skew, (0.1, 0.3, 0.5))
    for skew in (0.8, 1.0):
        yield _trace(f"Zipf {skew}, mixed sizes", partial(zipf, skew=skew), mixed=True)
        yield from _scans(skew, (0.3,), mixed=True)
    for skew in (0.8, 1.0):
        yield _trace(f"Zipf {skew}, slow drift", partial(drifting, skew=skew, swaps=1))
        yield _trace(f"Zipf {skew}, fast drift", partial(drifting, skew=skew, swaps=10))
        yield _trace(f"Zipf {skew}, purges", partial(purged, skew=skew))
    yield _trace("news", news)
    for share in (0.06, 0.25, 1):
        yield _trace(f"loop of {100 * share:.0f} %", partial(loop, share=share))
    some = cycle(range(OBJECTS, OBJECTS * 5 // 4))
    yield _trace("Zipf 0.8, 30 % loop", partial(interleaved, skew=0.8, scan=some, share=0.3), "scan")
    every = cycle(range(OBJECTS))
    yield _trace("Zipf 1.0, 30 % crawl", partial(interleaved, skew=1.0, scan=every, share=0.3), "scan")
    for skew in (0.8, 1.0):
        yield _trace(f"Zipf {skew}, all replaced 10 times", partial(replaced, skew=skew), "hostile")
    for width in (OBJECTS // 100, OBJECTS // 10):
        yield _trace(f"window of {width}", partial(window, width=width), "hostile")
    for distance in (600, 3000):
        yield _trace(f"twice at {distance}", partial(twice, distance=distance), "hostile")


def _scans(skew: float, shares: Iterable[float], *, mixed: bool = False) -> Iterator[Trace]:
    """Zipf with keys that come once, mixed into it or in bursts."""
    for share in shares:
        for how, made in (("scan", interleaved), ("bursts", in_bursts)):
            name = f"Zipf {skew},{' mixed sizes,' if mixed else ''} {100 * share:.0f} % {how}"
            yield _trace(name, partial(made, skew=skew, scan=count(OBJECTS), share=share), "scan", mixed=mixed)


def _trace(name: str, made: Callable[[random.Random], list[int]], kind: str = "", *, mixed: bool = False) -> Trace:
    rng = random.Random(name)
    keys = made(rng)
    objects = max(keys) + 1
    return Trace(name, keys, log_normal(rng, objects) if mixed else [SIZE] * objects, kind)
