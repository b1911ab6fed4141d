"""How long a refusal takes tells nothing: not which paths there are, and not how much of a token was right."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import chain
from random import Random
from statistics import median
from time import perf_counter
from typing import Final

import pytest

from proxy.admin.access import Access
from tests.admin.kit import TOKEN, Admin, admin

ROUNDS: Final = 500
TRIES: Final = 3  # a machine that is busy for a while is not what is judged
WITHIN: Final = 1.15  # of the control's median; what two medians of the very same request differ by comes on top


def head(path: str, method: str = "GET", *fields: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *fields, "", ""]).encode()


def bearer(token: str) -> bytes:
    return head("/stats", "GET", f"Authorization: Bearer {token}")


async def medians(here: Admin, questions: Sequence[bytes], status: bytes) -> list[float]:
    """How long each takes, asked in turn on one connection and every time in another order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    took: list[list[float]] = [[] for _ in questions]
    order = list(range(len(questions)))
    dice = Random(1)
    try:
        for _ in range(ROUNDS):
            dice.shuffle(order)
            for number in order:
                began = perf_counter()
                writer.write(questions[number])
                said = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(said.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
                took[number].append(perf_counter() - began)
                assert said.startswith(b"HTTP/1.1 " + status), (questions[number], said)
    finally:
        writer.transport.abort()
    return [median(times) for times in took]


async def alike(questions: Sequence[bytes], status: bytes) -> list[str]:
    """What takes longer or shorter than the first of them, which is asked twice as the control."""

    def guarded(here: Admin) -> None:
        here.access = Access("127.0.0.1", TOKEN)

    found: list[str] = []
    for _ in range(TRIES):
        async with admin(change=guarded) as here:
            control, again, *others = await medians(here, [questions[0], *questions], status)
        slack = WITHIN * max(control / again, again / control)
        found = [
            f"{question!r}: {took / control:.2f} of the control"
            for question, took in zip(questions[1:], others, strict=True)
            if not 1 / slack < took / control < slack
        ]
        if not found:
            break
    return found


@pytest.mark.clock
async def test_no_path_and_no_method_is_refused_sooner_than_another() -> None:
    paths = ["/stats", "/invalidations/b1", "/invalidate", "/nothing", "/stats/more", "/entries?url=/x", "/%73tats"]
    methods = ["PUT", "DELETE", "OPTIONS", "PURGE"]
    questions = chain((head(path) for path in paths), (head("/stats", method) for method in methods))
    assert await alike(list(questions), b"401") == []


def wrong_tokens() -> Iterator[str]:
    """Those that are as long as the right one come first, by how much of them is right."""
    size = len(TOKEN)
    for right in (0, 1, size // 2, size - 1):
        yield TOKEN[:right] + "~" * (size - right)
    yield from ("~", TOKEN[:1], TOKEN[: size // 2], TOKEN[:-1], f"{TOKEN}~", f"{TOKEN}{TOKEN}", "~" * 2 * size)


@pytest.mark.clock
async def test_no_token_is_refused_sooner_than_another() -> None:
    assert await alike([bearer(token) for token in wrong_tokens()], b"401") == []


@pytest.mark.clock
async def test_an_unknown_name_is_refused_alike_with_the_token_and_without() -> None:
    foreign = [
        head(path, "GET", f"Authorization: Bearer {token}").replace(b"Host: localhost", b"Host: evil.example")
        for path in ("/stats", "/nothing", "/healthz")
        for token in (TOKEN, "~" * len(TOKEN))
    ]
    assert await alike(foreign, b"421") == []
