"""Requests that may change what is stored: carried out to their end whoever still waits, and judged by their answer."""

import asyncio
from dataclasses import replace
from typing import Final

from proxy.flow.background import Background
from proxy.flow.calls import Calls
from proxy.flow.gate import Place
from proxy.flow.invalidation import InvalidationLog, Kind
from proxy.flow.ports import Answer, Call, ClientError, Clock, OriginError
from proxy.flow.sharing import SharedLog
from proxy.flow.site import Visit
from proxy.rules.fields import group_tags
from proxy.rules.keys import same_origin_target
from proxy.rules.lookup import SAFE_METHODS
from proxy.rules.message import Fields

MAX_GROUPS: Final = 256  # invalidated by one answer, each by itself; RFC 9875 section 3 asks for 32


class _Write:
    """One on its way: whether it has been sent, and what came of it, for its client."""

    __slots__ = ("answer", "sent")

    def __init__(self) -> None:
        self.sent = False
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def send(self) -> None:
        self.sent = True

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Writes:
    """Unsafe requests, RFC 9111 section 4.4. `told` is who tells other instances."""

    def __init__(
        self, calls: Calls, log: InvalidationLog, told: SharedLog | None, background: Background, clock: Clock
    ) -> None:
        self._calls, self._log, self._told = calls, log, told
        self._background, self._clock = background, clock

    async def make(self, visit: Visit, call: Call, place: Place) -> Answer:
        """The answer, when what it invalidates is invalidated. Raises OriginError and ClientError.

        Whoever leaves it must not decide what it has changed: once sent, it goes on without its client, at most for
        the upstream's timeout, and keeps its place.
        """
        write = _Write()
        task = self._background.spawn(self._carry_out(visit, replace(call, sent=write.send), write), "write")
        try:
            return await write.answer
        except asyncio.CancelledError:
            if not write.sent:
                task.cancel()
            place.pass_on(task)
            if not write.answer.cancelled() and write.answer.exception() is None:  # it came in that very moment
                write.answer.result().close()
            raise
        finally:
            del write  # an exception that it holds has passed this frame

    async def _carry_out(self, visit: Visit, call: Call, write: _Write) -> None:
        try:
            answer = await self._calls.make(visit, call)
            try:
                if 200 <= answer.head.status < 400:
                    await self._invalidate(visit, answer.head.fields)
                if not write.answer.done():
                    write.answer.set_result(answer)
                    return
            except BaseException:
                answer.close()
                raise
            answer.close()  # nobody waits for it
        except (OriginError, asyncio.CancelledError) as error:  # the latter at the process's end
            if write.sent:  # it may have been done: what is stored is validated, and still there if that fails
                await self._invalidate(visit, {}, soft=True)
            if not isinstance(error, OriginError):
                raise
            write.fail(OriginError(error.reason, str(error)))
        except ClientError as error:  # its body never ended, so it was never a request
            write.fail(ClientError(str(error)))
        except Exception:  # a bug of ours, logged by whoever runs this: its client must not wait for ever
            write.fail(RuntimeError("the write failed"))
            raise
        finally:
            write.answer.cancel()  # at the process's end

    async def _invalidate(self, visit: Visit, fields: Fields, *, soft: bool = False) -> None:
        """The target, and Location and Content-Location on the same origin; RFC 9875 section 3: the groups of that
        origin that the answer's `fields` name. Others have been told, if they can be, before the client hears of it.
        """
        request = visit.request
        targets = {request.target}
        for name in ("location", "content-location"):
            reference = fields.get(name)
            target = None if reference is None else same_origin_target(reference, request)
            if target is not None:
                targets.add(target)
        batch = [(Kind.URL, visit.site.keyed_url(request.scheme, request.host, t)) for t in sorted(targets)]
        groups = group_tags(fields.get("cache-group-invalidation"), f"{request.scheme}://{request.host}")
        # So many are as good as all of the origin's, and one record.
        batch += [(Kind.TAG, tag) for tag in groups] if len(groups) <= MAX_GROUPS else [(Kind.HOST, request.host)]
        self._log.append(batch, self._clock.now(), soft=soft)
        if self._told is not None:
            await self._told.announce(batch, soft=soft)


def is_write(visit: Visit) -> bool:
    """Whether its answer may say that something stored is outdated."""
    return visit.lane.policy.unsafe_invalidates and visit.request.method not in SAFE_METHODS
