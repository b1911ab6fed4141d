"""What is listed of what is stored, and that looking changes nothing."""

from dataclasses import replace

import pytest

from proxy.flow.explanation import Field, Standing
from proxy.flow.invalidation import Kind
from proxy.flow.inventory import Inventory
from proxy.flow.site import Site
from proxy.flow.steps import windows
from proxy.rules.policy import KeyRule
from tests.flow.kit import FRESH, PLAIN, STALEABLE, World, request
from tests.flow.test_explain import state


def inventory(w: World) -> Inventory:
    return Inventory(lambda: w.exchange.site, w.memory, w.log, w.clock.now)


async def test_all_variants_of_a_url_are_listed_with_what_is_known_of_them() -> None:
    policy = replace(PLAIN, tags=("route",), key=KeyRule(headers=("x-tenant",)))
    async with World(policy) as w:
        asking = ("X-Tenant: a", "Accept-Encoding: gzip")
        entry = await w.store(STALEABLE, "Vary: Accept-Encoding", "Cache-Tag: t", asking=asking, body=b"abc")
        w.clock.at += 10
        await w.store(FRESH, "Vary: Accept-Encoding", asking=("X-Tenant: a",))
        w.purge(Kind.TAG, "t")
        before = state(w, "http://example.com/a\nx-tenant=a")
        newest, older = inventory(w).stored(request("X-Tenant: a"))
        assert state(w, "http://example.com/a\nx-tenant=a") == before
        assert (older.url, older.headers, older.vary) == (
            "http://example.com/a",
            (Field("x-tenant", "a"),),
            (Field("accept-encoding", "gzip"),),
        )
        assert (older.status, older.length, older.age, older.left, older.arrived) == (200, 3, 10.0, 50.0, 10.0)
        assert (older.tags, older.standing, older.current, older.route) == (("route", "t"), Standing.GONE, True, "all")
        assert (older.windows, older.policy) == (windows(entry, w.clock.at), entry.terms.policy)
        assert (newest.vary, newest.standing) == ((Field("accept-encoding", None),), Standing.VALID)
        assert inventory(w).stored(request("X-Tenant: b")) == ()
        w.exchange.site = w.site(replace(policy, default_ttl=1.0))
        assert not inventory(w).stored(request("X-Tenant: a"))[0].current


async def test_it_is_told_whether_a_variant_has_been_asked_for_since_it_came() -> None:
    async with World() as w:
        w.ask()
        await w.idle()
        w.last.reply(FRESH)
        await w.idle()
        assert [found.asked for found in inventory(w).stored(request())] == [False]
        w.ask()
        assert [found.asked for found in inventory(w).stored(request())] == [True]


async def test_where_no_route_leads_nothing_is_listed() -> None:
    async with World() as w:
        await w.store(FRESH)
        here = inventory(w)
        assert len(here.stored(request())) == 1
        w.exchange.site = Site((), {})
        assert here.stored(request()) == ()


async def test_a_cookie_that_a_variant_was_selected_on_is_not_listed() -> None:
    async with World() as w:
        await w.store(FRESH, "Vary: Cookie", asking=("Cookie: s3cret=1",))
        listed = repr(inventory(w).stored(request()))
        assert "s3cret" not in listed
        assert "(hidden " in listed


async def test_a_keyed_header_that_is_somebodys_own_is_not_listed() -> None:
    async with World(replace(PLAIN, key=KeyRule(headers=("x-api-key",)))) as w:
        await w.store(FRESH, asking=("X-Api-Key: s3cret",))
        (found,) = inventory(w).stored(request("X-Api-Key: s3cret"))
        (keyed,) = found.headers
        assert keyed.name == "x-api-key"
        assert (keyed.value or "").startswith("(hidden ")


async def test_what_was_purged_softly_is_stale_even_after_it_was_asked_for() -> None:
    async with World() as w:
        await w.store(STALEABLE, "Cache-Tag: t")
        (found,) = inventory(w).stored(request())
        assert (found.standing, found.left) == (Standing.VALID, 60.0)
        w.clock.at += 1
        w.purge(Kind.TAG, "t", soft=True)
        w.purge(Kind.TAG, "other")
        (found,) = inventory(w).stored(request())
        assert (found.standing, found.left) == (Standing.STALE, 0.0)
        w.ask()
        (found,) = inventory(w).stored(request())
        assert (found.standing, found.left) == (Standing.STALE, 0.0)
        await w.idle()
        w.last.reply(FRESH)


@pytest.mark.parametrize(
    ("grace", "drop", "standing"),
    [(0.0, False, Standing.DISTRUSTED), (30.0, False, Standing.VALID), (0.0, True, Standing.GONE)],
)
async def test_while_nobody_vouches_for_the_log_an_entry_is_valid_for_a_while(
    grace: float, drop: bool, standing: Standing
) -> None:
    async with World() as w:
        await w.store(FRESH)
        w.clock.at += 1
        w.log.trusted_until, w.log.grace, w.log.drop = w.clock.at - 0.5, grace, drop
        assert inventory(w).stored(request())[0].standing is standing
        w.log.trusted_until = w.clock.at + 0.5
        assert inventory(w).stored(request())[0].standing is Standing.VALID


async def test_what_nobody_knows_enough_of_any_more_is_distrusted() -> None:
    async with World() as w:
        await w.store(FRESH)
        w.log.restart("epoch", 7)
        assert inventory(w).stored(request())[0].standing is Standing.DISTRUSTED
