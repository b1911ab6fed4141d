"""`GET /config` over HTTP. What it says is settled in tests/config/test_effective.py."""

from proxy.admin.access import Access
from proxy.admin.config import Config
from proxy.admin.server import AdminServer
from tests.admin.kit import AUTHORIZED, TOKEN, Admin, admin


async def test_it_is_what_is_configured_now_for_whoever_may_know() -> None:
    configured = {"listen": "127.0.0.1:1"}

    def parts(here: Admin) -> None:
        here.server = AdminServer(lambda: True, access=lambda: here.access, parts=[Config(lambda: dict(configured))])

    async with admin(change=parts) as here:
        here.access = Access("127.0.0.1", TOKEN)
        assert (await here.ask("/config"))[0] == 401
        assert (await here.ask("/config", headers=AUTHORIZED))[:2] == (200, configured)
        configured["listen"] = "127.0.0.1:2"
        assert (await here.ask("/config", headers=AUTHORIZED))[1] == configured
