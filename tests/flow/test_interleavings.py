"""Anything in any order: whoever gets a whole answer gets the right one, and nothing is left over."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Protocol, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.flow.invalidation import Kind
from proxy.rules.message import Reason
from tests.flow.kit import PLAIN, FakeClient, World

TARGETS: Final = ["/a", "/b"]
SHAREABLE: Final = {
    "fresh": ("Cache-Control: max-age=60",),
    "soon stale": ("Cache-Control: max-age=1, stale-while-revalidate=30, stale-if-error=60",),
    "to be validated": ("Cache-Control: no-cache",),
    "by language": ("Cache-Control: max-age=60", "Vary: Accept-Language"),
}
FOR_ONE: Final = {
    "private": ("Cache-Control: private, max-age=60",),
    "cookie": ("Cache-Control: max-age=60", "Set-Cookie: s=1"),
    "no-store": ("Cache-Control: no-store",),
    "nothing said": (),
}
WISHES: Final = [(), (), (), ("Cache-Control: no-cache",), ("Range: bytes=3-9",), ('If-None-Match: "0"',),
                 ("Authorization: Basic x",), ("Cookie: a=b",)]  # fmt: skip

_T = TypeVar("_T")
Step = tuple[object, ...]
INDEX: Final = range(30)


def _step(kind: str, draw: "Draw") -> Step:
    match kind:
        case "ask":
            method = draw(["GET", "GET", "GET", "HEAD"])
            return kind, draw(TARGETS), draw(["en", "fr"]), draw(WISHES), method, draw([False, False, True])
        case "head":
            return kind, draw(INDEX), draw([*[*SHAREABLE] * 6, *FOR_ONE, "error", "fail"])
        case "end":
            return kind, draw(INDEX), draw([False, False, False, True])
        case "tick":
            return kind, draw([0.5, 2.0, 40.0])
        case "purge":
            return kind, draw(TARGETS), draw([False, True])
        case _:
            return kind, draw(INDEX)


KINDS: Final = [*["ask"] * 6, *["head"] * 4, *["end"] * 3, "chunk", "chunk", "leave", "vanish", "read", "tick", "purge",
                "reload"]  # fmt: skip


class Draw(Protocol):
    """One of several."""

    def __call__(self, of: Sequence[_T], /) -> _T: ...


@dataclass(slots=True)
class Asked:
    """What was so when a client asked."""

    client: FakeClient
    target: str
    language: str
    wishes: tuple[str, ...]
    method: str
    n: int
    calls: int


class Chaos:
    """Takes the steps, and knows what would be wrong."""

    def __init__(self, world: World) -> None:
        self.w = world
        self.asked: list[Asked] = []
        self.left: list[list[bytes] | None] = []  # of each call's body; None before its head
        self.born: list[int] = []  # the record each call came after, at the least
        self.purged: list[tuple[int, str]] = []

    def body(self, number: int) -> bytes:
        """Of one call, like no other's."""
        text = f"<{self.w.calls[number].call.target} {number}>".encode()
        return text * (60 if number % 4 == 3 else 3)

    def look(self) -> None:
        """Note calls that are new."""
        while len(self.born) < len(self.w.calls):
            self.born.append(self.w.log.position)
            self.left.append(None)

    def step(self, what: tuple[object, ...]) -> None:
        self.look()
        self.w.clock.at += 0.001
        calls = self.w.calls
        match what:
            case ("ask", str(target), str(language), tuple(wishes), str(method), bool(slow)):
                self._ask(target, language, wishes, method, slow=slow)
            case ("head", int(index), str(kind)) if waiting := [n for n, up in enumerate(calls) if up.waited_for]:
                self.head(waiting[index % len(waiting)], kind)
            case ("chunk", int(index)) if unsent := [n for n, chunks in enumerate(self.left) if chunks]:
                self.chunk(unsent[index % len(unsent)])
            case ("end", int(index), bool(cut)) if coming := [
                n for n, chunks in enumerate(self.left) if chunks is not None
            ]:
                self.end(coming[index % len(coming)], cut=cut)
            case ("leave" | "vanish" | "read" as how, int(index)) if self.asked:
                client = self.asked[index % len(self.asked)].client
                if how == "read":
                    client.read()
                elif client.task is not None:
                    client.leave() if how == "leave" else client.vanish()
            case ("tick", float(seconds)):
                self.w.clock.at += seconds
            case ("purge", str(target), bool(soft)):
                self.w.purge(Kind.TARGET, target, soft=soft)
                if not soft:
                    self.purged.append((self.w.log.position, target))
            case ("reload", _):
                policy = self.w.exchange.site.routes[0].policy
                self.w.exchange.site = self.w.site(replace(policy, forward_tags=not policy.forward_tags))
            case _:
                return

    def _ask(self, target: str, language: str, wishes: tuple[str, ...], method: str, *, slow: bool) -> None:
        fields = (f"Accept-Language: {language}", f"X-Client: {len(self.asked)}", *wishes)
        client, work = self.w.plan(*fields, method=method, target=target)
        if slow:
            client.refuse_to_read()
        self.asked.append(Asked(client, target, language, wishes, method, self.w.log.position, len(self.w.calls)))
        self.w.run(client, work)

    def head(self, number: int, kind: str) -> None:
        up = self.w.calls[number]
        if not up.waited_for:
            return
        whole = self.body(number)
        validating = number % 2 == 1 and up.sent.get("if-none-match", '"0"') != '"0"'
        if validating and kind == "nothing said":
            kind = "no-store"  # a 304 that says nothing leaves what was said before
        mine = (f"X-Private: {number}",) if kind in FOR_ONE or "authorization" in up.sent else ()
        if kind == "fail":
            up.fail(Reason.TIMEOUT)
        elif kind == "error":
            up.reply(status=503, body=b"broken")
        elif validating:
            up.reply(*(SHAREABLE.get(kind) or FOR_ONE[kind]), *mine, f"X-Call: {number}", status=304)
        else:
            fields = (*(SHAREABLE.get(kind) or FOR_ONE[kind]), *mine, f'ETag: "{number + 1}"', f"X-Call: {number}")
            up.answer(*fields, length=len(whole) if number % 3 else None)
            quarter = len(whole) // 4 + 1
            bodiless = up.call.method == "HEAD"
            self.left[number] = [] if bodiless else [whole[at : at + quarter] for at in range(0, len(whole), quarter)]

    def chunk(self, number: int) -> None:
        left = self.left[number]
        assert left
        self.w.calls[number].send(left.pop(0))

    def end(self, number: int, *, cut: bool) -> None:
        up, left = self.w.calls[number], self.left[number]
        assert left is not None
        if cut:
            up.cut()
        else:
            up.send(*left)
            up.end()
        self.left[number] = None

    async def finish(self) -> None:
        """Everybody reads, every call is answered and ends."""
        for _ in range(8):
            await self.w.idle()
            self.look()
            for asked in self.asked:
                asked.client.read()
            for number, up in enumerate(self.w.calls):
                if up.waited_for:
                    self.head(number, "fresh")
                if self.left[number] is not None:
                    self.end(number, cut=False)
        await self.w.idle()

    def check(self) -> None:
        for number, asked in enumerate(self.asked):
            client = asked.client
            if client.done and client.status in (200, 206, 304, 416):
                self._right(number, asked)

    def _right(self, number: int, asked: Asked) -> None:
        client = asked.client
        source = int(client.fields["etag"].strip('"')) - 1
        up = self.w.calls[source]
        assert up.call.target == asked.target
        whole = self.body(source)
        if asked.method == "HEAD" or client.status in (304, 416):
            assert client.got == b""
        elif client.status == 206:
            assert client.got == whole[3:10]
        else:
            assert client.got == whole
        if "vary" in client.fields:
            assert up.sent["accept-language"] == asked.language
        if "x-private" in client.fields:
            whose = self.w.calls[int(client.fields["x-private"])]
            assert whose.sent["x-client"] == str(number), "somebody else's"
        gone = [n for n, target in self.purged if target == asked.target and self.born[source] < n <= asked.n]
        assert not gone, "purged before it was asked for"
        if "Cache-Control: no-cache" in asked.wishes and "stale-if-error" not in client.how:
            assert int(client.fields["x-call"]) >= asked.calls, "from before it was asked for"


async def _play(steps: Iterable[tuple[Step, int]]) -> None:
    async with World(replace(PLAIN, max_object_size=500), flight_memory=700) as w:
        chaos = Chaos(w)
        for what, passes in steps:
            chaos.step(what)
            await w.idle(passes)
        await chaos.finish()
        chaos.check()


@st.composite
def _short(draw: st.DrawFn) -> list[tuple[Step, int]]:
    def one(of: Sequence[_T], /) -> _T:
        return draw(st.sampled_from(of))

    return [(_step(one(KINDS), one), one(range(5))) for _ in range(draw(st.integers(5, 25)))]


@settings(max_examples=60, deadline=None)
@given(_short())
async def test_every_whole_answer_is_the_right_one_and_nothing_is_left(steps: list[tuple[Step, int]]) -> None:
    await _play(steps)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
async def test_nor_in_the_long_run(seed: int) -> None:
    chance = Random(seed)
    steps = [(_step(chance.choice(KINDS), chance.choice), chance.randrange(5)) for _ in range(150)]
    await _play(steps)
