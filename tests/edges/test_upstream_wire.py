"""A connection to an upstream by itself. What it does under a call is in the tests of the origin."""

import asyncio

import aiohttp
import pytest

from proxy.edges.upstream_wire import UpstreamWire, without_frames


def _failed() -> None:
    raise ValueError("the first")


def _wrapped() -> None:
    try:
        _failed()
    except ValueError as error:
        raise KeyError("the second") from error


def _again() -> None:
    try:
        _wrapped()
    except KeyError:
        raise OSError("the third")  # noqa: B904 - its context is what is looked for


def _raised() -> OSError:
    with pytest.raises(OSError, match="the third") as caught:
        _again()
    return caught.value


def test_an_error_loses_its_frames_and_those_of_all_that_led_to_it() -> None:
    third = _raised()
    second = third.__context__
    assert second is not None
    first = second.__cause__
    assert first is not None
    assert all(error.__traceback__ is not None for error in (first, second, third))
    assert without_frames(third) is third
    assert all(error.__traceback__ is None for error in (first, second, third))
    assert (third.__context__, second.__cause__) == (second, first)  # what they say of each other stays


async def test_a_body_breaks_off_with_its_connection_in_whichever_order_they_are_told() -> None:
    loop = asyncio.get_running_loop()
    for watched_first in (True, False):
        wire = UpstreamWire(loop)
        content = aiohttp.StreamReader(wire, 1024, loop=loop)
        if watched_first:
            wire.watch(content)
        assert content.exception() is None
        wire.connection_lost(None)
        if not watched_first:
            wire.watch(content)
        with pytest.raises(aiohttp.ClientPayloadError):
            await content.read()


async def test_a_body_that_is_over_is_left_alone() -> None:
    loop = asyncio.get_running_loop()
    for released in (True, False):
        wire = UpstreamWire(loop)
        content = aiohttp.StreamReader(wire, 1024, loop=loop)
        wire.watch(content)
        content.feed_data(b"abc")
        content.feed_eof()
        if released:
            wire.watch(None)
        wire.connection_lost(None)
        assert await content.read() == b"abc"
        assert content.exception() is None


async def test_a_reset_is_told_from_an_end() -> None:
    loop = asyncio.get_running_loop()
    for exc, cut in ((None, False), (ConnectionResetError(), True)):
        wire = UpstreamWire(loop)
        wire.connection_lost(exc)
        assert wire.cut is cut
