"""Answers on their way to the client: whole, in part, cut, and carried on after a 101."""

import json

import pytest

from proxy.rules.admit import INLINE
from proxy.rules.message import Reason
from tests.flow.kit import FRESH, FakeClient, World

LARGE = bytes(range(256)) * (INLINE // 256) * 2 + b"and a bit"


async def test_a_large_stored_body_is_written_piece_by_piece_at_the_clients_pace() -> None:
    async with World() as w:
        await w.store(FRESH, body=LARGE)
        client, work = w.plan()
        client.refuse_to_read()
        assert work is not None
        w.run(client, work)
        await w.idle()
        assert (client.status, client.got) == (200, b"")
        client.read()
        await w.idle()
        assert client.got == LARGE
        assert client.how == "readthrough; hit; ttl=60"


@pytest.mark.parametrize("leaving", [FakeClient.leave, FakeClient.vanish])
async def test_a_client_that_leaves_a_large_hit_is_noted_once_and_is_no_failure(leaving: object) -> None:
    async with World() as w:
        await w.store(FRESH, body=LARGE)
        client = w.ask()
        client.refuse_to_read()
        await w.idle()
        client.leave() if leaving is FakeClient.leave else client.vanish()
        await w.idle()
        assert not client.done
        assert [(outcome.status, outcome.complete) for outcome in w.outcomes[1:]] == [(499, False)]


async def test_a_body_that_breaks_off_is_aborted_and_noted_as_such() -> None:
    async with World() as w:
        client = w.ask("Cache-Control: no-store")
        await w.idle()
        w.last.answer(length=10)
        w.last.send(b"abc")
        w.last.cut()
        await w.idle()
        assert client.aborted
        assert client.got == b"abc"
        (outcome,) = w.outcomes
        assert (outcome.status, outcome.complete, outcome.account.reason) == (200, False, Reason.ABORTED)
        assert w.last.closed == 1


async def test_a_body_that_only_its_connection_ends_is_relayed_so_and_not_stored() -> None:
    async with World() as w:
        client = w.ask()
        await w.idle()
        w.last.answer(FRESH, close_delimited=True)
        w.last.end(b"abc")
        await w.idle()
        assert client.got == b"abc"
        assert "close-delimited" in client.how
        assert w.stored() is None


async def test_a_span_is_cut_out_of_what_passes_and_the_rest_is_not_waited_for() -> None:
    async with World() as w:
        client = w.ask("Range: bytes=3-5")
        await w.idle()
        w.last.answer(FRESH, length=12)
        w.last.send(b"01", b"23", b"45")
        await w.idle()
        assert (client.status, client.got, client.done) == (206, b"345", True)
        assert client.fields["content-range"] == "bytes 3-5/12"
        assert client.fields["content-length"] == "3"
        w.last.send(b"67")
        w.last.end(b"89ab")
        await w.idle()
        stored = w.stored()
        assert stored is not None
        assert stored.body == b"0123456789ab"


async def test_our_own_errors_have_a_body_but_for_head() -> None:
    async with World() as w:
        get, head = w.ask(), w.ask(method="HEAD")
        await w.idle()
        for up in w.calls:
            up.fail(Reason.TIMEOUT)
        await w.idle()
        assert (get.status, head.status) == (504, 504)
        assert json.loads(get.got)["type"] == "urn:readthrough:error:timeout"
        assert head.got == b""
        assert get.fields["content-length"] == head.fields["content-length"] == str(len(get.got))
