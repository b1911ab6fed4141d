"""The supervisor of `workers: N`: starts that many processes on one port, restarts a dead one, and speaks for all.

It serves no client. It reads the configuration, for all of them, and sends each its share over a channel of its own
(proxy/worker.py is the other end): so a configuration with mistakes is refused once, and who is started again
gets what the others have, whatever is in the file by then. The end of that channel is how they learn that the
supervisor is gone. Processes are in sessions of their own: Ctrl-C and a service manager's signal to the whole
group reach the supervisor, and each worker hears of it once.
"""

import asyncio
import logging
import shutil
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from proxy.admin.access import Access
from proxy.admin.crew import CrewAdmin, Member
from proxy.app import Stopping, announce, resolving, settled
from proxy.config.document import ConfigError
from proxy.flow.background import Background
from proxy.settings import Settings
from proxy.worker import Order, admin_socket, frame

_log = logging.getLogger("readthrough")

SETTLED: Final = 10.0  # seconds after which a process that dies has at least lived
LONGEST: Final = 5.0  # seconds between two starts
_SHORTEST: Final = 0.1
_GRACE: Final = 5.0  # seconds beyond what a process may take to stop, before it is killed


def supervise(settings: Settings, reload: Callable[[], Settings]) -> int:
    """Serve with several processes until told to stop; returns the worst one's exit code. `reload` reads the
    configuration again.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stderr)
    # As we were started, so that they find the same program.
    command = (sys.executable, *sys.orig_argv[1:])
    try:
        directory = Path(tempfile.mkdtemp(prefix="readthrough-"))  # for its owner only
    except OSError as error:
        _log.error("cannot start: no temporary directory to be had, name one in TMPDIR: %s", error)
        return 1
    try:
        return asyncio.run(_supervise(settings, reload, command, directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _supervise(
    settings: Settings, reload: Callable[[], Settings], command: Sequence[str], directory: Path
) -> int:
    try:
        with reserved(settings.listen.host, settings.listen.port) as port:
            bound = replace(settings, listen=replace(settings.listen, port=port))
            return await Supervisor(bound, command, directory).run(reload)
    except OSError as error:
        _log.error("cannot start: %s", error)
        return 1


@contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Hold an address without listening there, so that every process can have the port, which may be chosen here (0).

    Raises OSError where it is unknown, or somebody listens there: a process that shares its port would not notice.
    """
    with ExitStack() as held:
        with resolving("listen", host):
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            at = (address[0], port, *address[2:])
            try:
                alone = socket.socket(family, kind, protocol)
            except OSError:  # a kernel without IPv6
                continue
            with alone:
                port = _bind(alone, at)
            holding = held.enter_context(socket.socket(family, kind, protocol))
            holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _bind(holding, (at[0], port, *at[2:]))
        yield port


def _bind(sock: socket.socket, address: tuple[object, ...]) -> int:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind(address)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen at {address[0]} port {address[1]}: {error.strerror}") from None
    port: int = sock.getsockname()[1]
    return port


def share(settings: Settings) -> Settings:
    """One process's part: what is configured is the total of all."""

    def part(total: int) -> int:
        return -(-total // settings.workers)

    limits = settings.limits
    return replace(
        settings,
        memory_max_size=max(1, settings.memory_max_size // settings.workers),
        limits=replace(limits, max_connections=part(limits.max_connections), flight_memory=part(limits.flight_memory)),
        upstreams={
            name: replace(
                upstream,
                max_connections=part(upstream.max_connections),
                gate=upstream.gate
                and replace(upstream.gate, requests=part(upstream.gate.requests), queue=part(upstream.gate.queue)),
            )
            for name, upstream in settings.upstreams.items()
        },
    )


def pause_after(before: float, lived: float) -> float:
    """Seconds to wait with the next start after a process that `lived` so many seconds and had been waited for
    `before` its own: none if it had settled, else more each time.
    """
    return 0.0 if lived >= SETTLED else min(LONGEST, max(_SHORTEST, before * 2))


@dataclass(slots=True)
class _Slot:
    """The place of one worker, whichever process has it."""

    number: int
    socket: Path
    process: Process | None = None
    channel: asyncio.StreamWriter | None = None
    serves: bool = False

    def tell(self, order: Order, settings: Settings | None = None) -> None:
        if self.channel is not None and not self.channel.is_closing():
            self.channel.write(frame(order, settings))


class Supervisor:
    """Keeps as many processes of `command` running as the settings say. Their sockets are in `directory`."""

    def __init__(self, settings: Settings, command: Sequence[str], directory: Path) -> None:
        self.settings = settings
        self._command, self._directory = command, directory
        self._stopping = Stopping()
        self._background = Background()
        self._slots = [_Slot(n, admin_socket(directory, n)) for n in range(1, settings.workers + 1)]
        self._complete = asyncio.Event()  # all have served at least once
        self._running = len(self._slots)  # slots that are kept filled
        self._over = asyncio.Event()
        self._worst = 0
        self._kill_timer: asyncio.TimerHandle | None = None
        self.admin = CrewAdmin(
            self._members,
            serving=lambda: self._complete.is_set() and not self._stopping.asked.is_set(),
            access=self._access,
        )

    async def run(self, reload: Callable[[], Settings]) -> int:
        """Until told to stop. Raises OSError where the admin listener's address is taken."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self.stop(Order.STOP))
        loop.add_signal_handler(signal.SIGINT, lambda: self.stop(Order.HURRY))
        loop.add_signal_handler(signal.SIGHUP, lambda: self._reload(reload))
        admin = self.settings.admin.listen
        with resolving("admin.listen", admin.host):
            await self.admin.listen(admin.host, admin.port)
        for slot in self._slots:
            self._background.spawn(self._keep(slot), f"worker {slot.number}")
        await self._over.wait()
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        await self.admin.close()
        await self._background.drain(within=1.0)
        return self._worst

    # -- the processes

    async def _keep(self, slot: _Slot) -> None:
        """Have a process in this slot until all are to stop."""
        loop, pause = asyncio.get_running_loop(), 0.0
        try:
            while not self._stopping.asked.is_set():
                began = loop.time()
                code = await self._run_one(slot)
                if self._stopping.asked.is_set():
                    self._worst = max(self._worst, _exit_code(code, stopping=True))
                    return
                if not self._complete.is_set():  # it cannot start, so it would not the next time
                    _log.error("worker %d %s before all were serving: stopping", slot.number, _ended(code))
                    self._worst = max(self._worst, _exit_code(code) or 1)
                    self.stop(Order.HURRY)
                    return
                pause = pause_after(pause, loop.time() - began)
                _log.warning("worker %d %s; another is started in %g s", slot.number, _ended(code), pause)
                await self._until_stop(pause)
        finally:
            self._running -= 1
            if not self._running:
                self._over.set()

    async def _run_one(self, slot: _Slot) -> int:
        """One process from start to end: its exit code, or less than 0 for the signal that ended it."""
        try:
            process, reader, channel = await self._start(slot)
        except OSError as error:
            _log.error("worker %d cannot be started: %s", slot.number, error)
            return 1
        slot.process, slot.channel = process, channel
        try:
            slot.tell(Order.CONFIGURE, share(self.settings))
            if self._stopping.asked.is_set():
                slot.tell(Order.HURRY)
            if await _said(reader):
                slot.serves = True
                _log.info("worker %d is process %d", slot.number, process.pid)
                self._count_up()
            return await process.wait()
        finally:
            slot.process, slot.channel, slot.serves = None, None, False
            channel.close()

    async def _start(self, slot: _Slot) -> tuple[Process, asyncio.StreamReader, asyncio.StreamWriter]:
        """A process and the channel to it. Raises OSError where memory, processes or files are not to be had."""
        slot.socket.unlink(missing_ok=True)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                place = f"{slot.number}:{theirs.fileno()}:{self._directory}"
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    *("--worker", place),
                    stdin=DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            try:
                reader, channel = await asyncio.open_unix_connection(sock=ours)
            except OSError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                raise
        except OSError:
            ours.close()
            raise
        return process, reader, channel

    def _count_up(self) -> None:
        if not self._complete.is_set() and all(slot.serves for slot in self._slots):
            self._complete.set()
            announce(self.settings, self.settings.listen.port)

    async def _until_stop(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.asked.wait(), seconds)
        except TimeoutError:
            return

    # -- what they are told

    def stop(self, order: Order) -> None:
        """The first time as `order` says; again means now."""
        again = self._stopping.asked.is_set()
        self._stopping.ask(delayed=order is Order.STOP)
        for slot in self._slots:
            slot.tell(Order.HURRY if again else order)
        shutdown = self.settings.shutdown
        left = 0.0 if again else shutdown.timeout + (shutdown.delay if order is Order.STOP else 0.0)
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._kill_timer = asyncio.get_running_loop().call_later(left + _GRACE, self._kill)

    def _kill(self) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.process.returncode is None:
                _log.error("worker %d does not stop: killing process %d", slot.number, slot.process.pid)
                self._worst = 1
                slot.process.kill()

    def _reload(self, read: Callable[[], Settings]) -> None:
        """Pass a new configuration on, or keep the old one and say why."""
        try:
            fresh = read()
        except ConfigError as error:
            _log.error("configuration not reloaded, the old one stays:\n%s", "\n".join(map(str, error.errors)))
            return
        except (OSError, ValueError) as error:
            _log.error("configuration not reloaded, the old one stays: %s", error)
            return
        # The port may have been chosen by us, which is no change of what was asked for.
        if fresh.listen == replace(self.settings.listen, port=0):
            fresh = replace(fresh, listen=self.settings.listen)
        self.settings = settled(fresh, self.settings)
        for slot in self._slots:
            slot.tell(Order.CONFIGURE, share(self.settings))

    # -- what the admin listener asks

    def _members(self) -> list[Member]:
        return [
            Member(slot.number, slot.process.pid, slot.socket)
            for slot in self._slots
            if slot.process is not None and slot.serves
        ]

    def _access(self) -> Access:
        admin = self.settings.admin
        return Access(admin.listen.host, admin.token, admin.hosts)


async def _said(reader: asyncio.StreamReader) -> bool:
    """Whether it says that it serves; False where it has ended."""
    try:
        return bool(await reader.read(1))
    except ConnectionError:
        return False


def _exit_code(code: int, *, stopping: bool = False) -> int:
    """What the process's end is as our exit code. A manager may signal all at once, even one that only just starts."""
    if stopping and code == -signal.SIGTERM:
        return 0
    return code if code >= 0 else 1


def _ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
