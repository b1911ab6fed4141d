"""`GET /instances`, over HTTP."""

from dataclasses import dataclass

from proxy.admin.instances import Instances
from proxy.admin.server import AdminServer
from proxy.flow.sharing import LogUnreachable, Places
from tests.admin.kit import Admin, admin


@dataclass
class Log:
    """flow.ports.Following."""

    found: Places | None
    instance: str = "b"

    async def places(self) -> Places:
        if self.found is None:
            raise LogUnreachable("connection refused by redis.internal")
        return self.found


async def test_everybody_is_named_with_how_far_they_have_come() -> None:
    def follows(here: Admin) -> None:
        log = Log(Places(7, {"a": 7, "b": 4, "c": None, "d": 8}))
        here.server = AdminServer(lambda: True, access=lambda: here.access, parts=[Instances(log)])

    async with admin(change=follows) as here:
        status, said, _ = await here.ask("/instances")
        assert status == 200
        assert said == {
            "last": 7,
            "here": ["b"],
            "instances": [
                {"instance": "a", "position": 7, "behind": 0},
                {"instance": "b", "position": 4, "behind": 3},
                {"instance": "c", "position": None, "behind": None},
                {"instance": "d", "position": 8, "behind": 0},  # it has heard of what came since
            ],
        }


async def test_a_log_that_is_out_of_reach_is_said_to_be() -> None:
    def blind(here: Admin) -> None:
        here.server = AdminServer(lambda: True, access=lambda: here.access, parts=[Instances(Log(None))])

    async with admin(change=blind) as here:
        status, said, fields = await here.ask("/instances")
        assert (status, said["type"], fields["Retry-After"]) == (503, "urn:readthrough:error:log-unreachable", "1")
        assert "redis.internal" not in str(said)
