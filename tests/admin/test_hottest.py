"""`GET /hot`, over HTTP."""

import re

import pytest

from proxy.admin.hottest import Hottest
from proxy.admin.server import AdminServer
from proxy.flow.hot import HotKeys
from tests.admin.kit import Admin, admin


def served(here: Admin) -> None:
    hot = HotKeys(lambda: 0.0)

    def settle() -> None:
        if not len(hot):
            for number in range(30):
                hot.add(f"http://a/{number}", number + 1)

    here.server = AdminServer(lambda: True, access=lambda: here.access, parts=[Hottest(hot, settle)])


@pytest.mark.parametrize(("query", "count"), [("", 20), ("?top=3", 3), ("?top=9999", 30)])
async def test_the_hottest_come_first(query: str, count: int) -> None:
    async with admin(change=served) as here:
        status, said, _ = await here.ask(f"/hot{query}")
        assert status == 200
        assert [key["key"] for key in said["keys"]] == [f"http://a/{29 - number}" for number in range(count)]
        assert said["keys"][0].keys() == {"key", "rate", "excess"}


@pytest.mark.parametrize("query", ["?top=", "?top=0", "?top=-1", "?top=x", "?top=10000", "?x=1", "?top=1&top=2"])
async def test_a_question_that_is_not_understood_is_said_to_be(query: str) -> None:
    async with admin(change=served) as here:
        status, said, _ = await here.ask(f"/hot{query}")
        assert (status, said["type"]) == (400, "urn:readthrough:error:bad-request")


async def test_whose_key_it_is_is_not_told_and_each_stays_one_of_its_own() -> None:
    hot = HotKeys(lambda: 0.0)
    for number in range(50):
        hot.add(f"http://a/mine\nocp-apim-subscription-key=s3cret{number}\nx-tenant=t", 2.0 + number)
    hot.add("http://a/\nx-tenant=t", 90.0)

    def keyed(here: Admin) -> None:
        here.server = AdminServer(lambda: True, access=lambda: here.access, parts=[Hottest(hot, lambda: None)])

    async with admin(change=keyed) as here:
        _, said, _ = await here.ask("/hot?top=100")
        assert "s3cret" not in str(said)
        first, second, *_ = keys = [key["key"] for key in said["keys"]]
        assert (first, len(keys), len(set(keys))) == ("http://a/\nx-tenant=t", 51, 51)
        assert re.fullmatch(r"http://a/mine\nocp-apim-subscription-key=\(hidden [0-9a-f]{12}\)\nx-tenant=t", second)
        assert said["keys"][1]["rate"] / said["keys"][0]["rate"] == pytest.approx(51 / 90, rel=0.01)
