"""Whether a measurement is of what its case says: looked at before, and counted afterwards."""

import time

from tests.benchmarks.cases import Case, Traffic
from tests.benchmarks.load import Failed, Load
from tests.benchmarks.servers import Server, asked
from tests.benchmarks.wire import Answer, Asker, request


def before(case: Case, server: Server, api: int) -> int:
    """Ask for every URL twice, one after the other, and look at the second answer. The value is its size in bytes."""
    asker = Asker(server.port)
    try:
        return [_look(case, server, asker, path, api) for path in _paths(case.traffic)][-1]
    except (OSError, LookupError, ValueError) as error:
        raise Failed(f"{server.name} gave no proper answer ({error!r})\n{server.errors.read_text()[-4000:]}") from error
    finally:
        asker.close()


def _paths(traffic: Traffic) -> list[str]:
    if traffic.draw in ("zipf", "even"):
        return [f"{traffic.path}{key}" for key in range(1, traffic.keys + 1)]
    return [traffic.path]


def _look(case: Case, server: Server, asker: Asker, path: str, api: int) -> int:
    traffic = case.traffic
    asker.ask(request(path))
    if traffic.keys == 1:
        time.sleep(0.05)  # nginx sends the end of an answer before it stores it
    counted = asked(api) if traffic.keys == 1 else 0
    answer = asker.ask(request(f"{path}another" if traffic.draw == "unique-url" else path, traffic.extra))
    fetched = asked(api) - counted if traffic.keys == 1 else int(not case.cached)
    if answer.status != case.status or len(answer.body) != case.size:
        raise Failed(f"{server.name} answered {answer.status} with {len(answer.body)} bytes: {answer.fields}")
    if server.subject.kind != "floor":
        if _hit(server, answer) is not case.cached:
            raise Failed(f"{server.name} says it {'missed' if case.cached else 'hit'}: {answer.fields}")
        if fetched != int(not case.cached):
            raise Failed(f"{server.name} asked the upstream {fetched} times for one request")
    return answer.size


def _hit(server: Server, answer: Answer) -> bool:
    """Whether the server says that this answer came from its cache."""
    if server.subject.kind == "nginx":
        return answer.fields.get("x-cache-status") == "HIT"
    return "hit" in answer.fields.get("cache-status", "").split("; ")


def after(case: Case, server: Server, done: Load, fetched: int, size: int) -> None:
    """What wrk has read and what the upstream was asked must fit the case: `size` bytes an answer, and a fetch for
    each of them or none.
    """
    # What is cut by the end of the run counts as bytes and not as an answer; Age grows by a digit or two.
    tolerance = 16 + size * case.traffic.connections / done.requests
    if abs(done.bytes_each - size) > tolerance:
        raise Failed(f"{server.name} sent {done.bytes_each:.0f} bytes an answer, not {size}")
    if server.subject.kind == "floor":
        return
    if case.cached and fetched:
        raise Failed(f"{server.name} asked the upstream {fetched} times in a case of hits")
    if not case.cached and not 0 <= fetched - done.requests <= case.traffic.connections:
        raise Failed(f"{server.name} asked the upstream {fetched} times for {done.requests} requests")


def logged(server: Server, requests: int) -> None:
    """The access log must have a line for each request. It is emptied, for it is kept in memory."""
    if server.log is None:
        return
    time.sleep(1.2)  # nginx flushes once a second
    with server.log.open("rb") as file:
        lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    server.empty_log()
    if lines < requests:
        raise Failed(f"{server.name} logged {lines} of {requests} requests")
