"""Real Redis servers for tests, and what goes wrong with them: killed, stopped, restarted, cut off.

A binary on PATH is run as it is; where there is none but Docker answers, the same command runs in a
container on the host's network. What waits here blocks: from inside a loop, use asyncio.to_thread.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self

import redis
import trustme
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.e2e.process import free_port

HOST: Final = "127.0.0.1"
IMAGE: Final = "redis:7"
NO_SERVER: Final = (
    "these tests need a Redis server: install redis-server or valkey-server (Debian: apt-get install redis-server, "
    "macOS: brew install redis), or start Docker; TEST_REDIS_URL alone serves those that need no fault in it"
)
Options = Mapping[str, str | Sequence[str]]


class Running(Protocol):
    """A server process, wherever it runs."""

    def signal(self, number: signal.Signals) -> None: ...

    def ended(self) -> bool: ...

    def wait(self) -> None: ...


class _Process:
    def __init__(self, binary: str, arguments: Sequence[str], directory: Path) -> None:
        with directory.joinpath("log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, *arguments], cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        # In life it has a machine of its own, and is asked for an answer within 100 ms: where that is permitted, it
        # goes before whatever else is busy here.
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, -10)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self) -> None:
        self._process.wait(10)


class _Container:
    def __init__(self, arguments: Sequence[str], directory: Path) -> None:
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - only where it is the last resort

        self._container = (
            DockerContainer(IMAGE)
            .with_volume_mapping(str(directory), str(directory), "rw")
            .with_command(["redis-server", *arguments])
            .with_kwargs(network_mode="host", user=f"{os.getuid()}:{os.getgid()}", working_dir=str(directory))
        )
        self._container.start()

    def signal(self, number: signal.Signals) -> None:
        self._container.get_wrapped_container().kill(signal=number.name)

    def ended(self) -> bool:
        wrapped = self._container.get_wrapped_container()
        wrapped.reload()
        return bool(wrapped.status == "exited")

    def wait(self) -> None:
        self._container.get_wrapped_container().wait(timeout=10)
        self._container.stop()


def _run(arguments: Sequence[str], directory: Path) -> Running:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary:
        return _Process(binary, arguments, directory)
    if _docker_answers():
        return _Container(arguments, directory)
    raise RuntimeError(NO_SERVER)


def _docker_answers() -> bool:
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415 - only where it is the last resort

    try:
        client = docker.from_env()
        try:
            return bool(client.ping())
        finally:
            client.close()
    except docker.errors.DockerException:
        return False


def until(question: Callable[[], bool], what: str, within: float = 60.0) -> None:
    """Wait, blocking, until the question is answered with yes; an error is a no."""
    deadline = time.monotonic() + within
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if question():
                return
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.02)


class Server:
    """One server process on a port of its own, with its directory below /tmp.

    `options` are lines of redis.conf by name. `tls`: it speaks nothing else, with a certificate of that
    authority. `admin` is the way in for `ask` where the options shut out the default user.
    """

    def __init__(
        self,
        options: Options | None = None,
        *,
        tls: trustme.CA | None = None,
        admin: tuple[str, str] | None = None,
        sentinel: bool = False,
    ) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="readthrough-redis-"))
        self._tls, self._admin, self._sentinel = tls, admin, sentinel
        self._running: Running | None = None
        lines: dict[str, str | Sequence[str]] = {"port": str(self.port), "bind": HOST, "dir": str(self.directory)}
        if not sentinel:
            lines |= {"save": '""', "appendonly": "no", "enable-debug-command": "yes"}
        if tls is not None:
            lines |= {"port": "0", "tls-port": str(self.port), **self._certificates(tls)}
        lines |= options or {}
        self.config = self.directory / "redis.conf"
        self._write(lines)

    def _certificates(self, ca: trustme.CA) -> dict[str, str]:
        ca.cert_pem.write_to_path(str(self.directory / "ca.pem"))
        pair = ca.issue_cert(HOST, "localhost")
        pair.private_key_pem.write_to_path(str(self.directory / "key.pem"))
        pair.cert_chain_pems[0].write_to_path(str(self.directory / "cert.pem"))
        return {
            "tls-ca-cert-file": str(self.ca_file),
            "tls-cert-file": str(self.directory / "cert.pem"),
            "tls-key-file": str(self.directory / "key.pem"),
            "tls-auth-clients": "no",
        }

    def _write(self, lines: Options) -> None:
        pairs = [
            (name, line) for name, value in lines.items() for line in ([value] if isinstance(value, str) else value)
        ]
        self.config.write_text("".join([f"{name} {line}\n" for name, line in pairs]))

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def url(self) -> str:
        """Without user and password."""
        if self._tls is not None:
            return f"rediss://{HOST}:{self.port}/0?ssl_ca_certs={self.ca_file}"
        return f"redis://{HOST}:{self.port}/0"

    def start(self) -> Self:
        """Start, and return once it answers."""
        self._running = _run([str(self.config), *(["--sentinel"] if self._sentinel else [])], self.directory)
        until(self._answers, f"a server on port {self.port}; {self.directory}/log")
        return self

    def _answers(self) -> bool:
        assert self._running is not None
        if self._running.ended():
            raise RuntimeError(f"the server stopped while starting:\n{self.directory.joinpath('log').read_text()}")
        return bool(self.ask("PING"))

    @property
    def alive(self) -> bool:
        return self._running is not None and not self._running.ended()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.signal(signal.SIGKILL)
        assert self._running is not None
        self._running.wait()

    def suspend(self) -> None:
        """SIGSTOP: its connections stand, and nothing answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        assert self._running is not None, "not started"
        self._running.signal(number)

    def restart(self, *, keep: bool) -> None:
        """Gone and back: with the data it had, or empty. Data is kept by way of SAVE, so it must still answer."""
        if self.alive:
            if keep:
                self.ask("SAVE")
            self.kill()
        if not keep:
            for leftover in ("dump.rdb", "appendonlydir"):
                path = self.directory / leftover
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.start()

    def close(self) -> None:
        """Kill it and remove its directory."""
        if self.alive:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def ask(self, *words: str | bytes | int) -> Any:  # noqa: ANN401 - RESP
        """The reply to one command, on a connection of its own; bytes, integers and lists as Redis sends them."""
        user, password = self._admin or (None, None)
        where: dict[str, Any] = {"host": HOST, "port": self.port, "username": user, "password": password}
        how: dict[str, Any] = {"protocol": 2, "socket_timeout": 5, "retry": Retry(NoBackoff(), 0)}
        if self._tls is None:
            connection = redis.Connection(**where, **how)  # type: ignore[no-untyped-call]
        else:
            connection = redis.SSLConnection(**where, **how, ssl_ca_certs=str(self.ca_file))
        try:
            connection.send_command(*words)  # type: ignore[no-untyped-call]
            return connection.read_response()
        finally:
            connection.disconnect()  # type: ignore[no-untyped-call]

    def info(self, section: str) -> dict[str, str]:
        """`INFO section` by name."""
        text = self.ask("INFO", section).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def calls(self, command: str) -> int:
        """How often it has run a command (lower case) since it was started, scripts' own included."""
        stat = self.info("commandstats").get(f"cmdstat_{command}")
        return int(stat.split(",")[0].removeprefix("calls=")) if stat else 0


class Sentinels:
    """One master, two replicas and three Sentinels that look after them."""

    NAME: Final = "main"

    def __init__(self) -> None:
        options = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
        self.servers = [Server(options) for _ in range(3)]
        self.sentinels: list[Server] = []

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        first, *others = [server.start() for server in self.servers]
        for server in others:
            server.ask("REPLICAOF", HOST, first.port)
        until(lambda: self._in_sync(first), "replicas in sync")
        watch = [
            f"monitor {self.NAME} {HOST} {first.port} 2",
            f"down-after-milliseconds {self.NAME} 500",
            f"failover-timeout {self.NAME} 2000",
            f"parallel-syncs {self.NAME} 2",
        ]
        self.sentinels = [Server({"sentinel": watch}, sentinel=True) for _ in range(3)]
        for sentinel in self.sentinels:
            self._start(sentinel)
        until(self._agree, "Sentinels that know of each other and of the replicas")
        return self

    @property
    def url(self) -> str:
        hosts = ",".join([f"{HOST}:{sentinel.port}" for sentinel in self.sentinels])
        return f"redis+sentinel://{hosts}/{self.NAME}"

    @property
    def master(self) -> Server:
        """Who it is, once the Sentinels that are alive agree."""
        ports: set[int] = set()

        def agreed() -> bool:
            nonlocal ports
            ports = self._masters()  # asked once more they may say another
            return len(ports) == 1

        until(agreed, "agreement on a master")
        (port,) = ports
        return next(server for server in self.servers if server.port == port)

    def _masters(self) -> set[int]:
        """Ports of those who are the master in a living Sentinel's view."""
        alive = [sentinel for sentinel in self.sentinels if sentinel.alive]
        return {int(sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME)[1]) for sentinel in alive}

    def heal(self) -> None:
        """Bring back whoever was killed or suspended, as replicas of today's master."""
        for sentinel in self.sentinels:
            if sentinel.alive:
                sentinel.resume()
            else:
                self._start(sentinel)
        for server in self.servers:
            if server.alive:
                server.resume()
            else:
                server.start()
        until(self._settled, "one master and two replicas of it")

    def _start(self, sentinel: Server) -> None:
        """Start one that looks and tells twenty and four times as often as it would by itself: 10 s and 2 s."""
        sentinel.start().ask("SENTINEL", "DEBUG", "INFO-PERIOD", 500, "PUBLISH-PERIOD", 500)

    def _settled(self) -> bool:
        master = self.master
        if master.ask("ROLE")[0] != b"master":
            return False
        for server in self.servers:
            if server is not master and server.info("replication").get("master_port") != str(master.port):
                server.ask("REPLICAOF", HOST, master.port)
        return self._in_sync(master) and self._agree()

    def _in_sync(self, master: Server) -> bool:
        replication = master.info("replication")
        return [replication.get(f"slave{n}", "").count("state=online") for n in (0, 1)] == [1, 1]

    def _agree(self) -> bool:
        for sentinel in self.sentinels:
            reply = sentinel.ask("SENTINEL", "MASTER", self.NAME)
            about = dict(zip(reply[::2], reply[1::2], strict=True))
            replicas = [
                dict(zip(one[::2], one[1::2], strict=True)) for one in sentinel.ask("SENTINEL", "REPLICAS", self.NAME)
            ]
            healthy = [one for one in replicas if one[b"flags"] == b"slave" and one[b"master-link-status"] == b"ok"]
            if about[b"flags"] != b"master" or about[b"num-other-sentinels"] != b"2" or len(healthy) != 2:
                return False
        return True

    def close(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.close()


class Cluster:
    """Three masters with a third of the slots each, and a replica of each."""

    SLOTS: Final = ((0, 5460), (5461, 10922), (10923, 16383))

    def __init__(self) -> None:
        self.servers = [
            Server(
                {
                    "cluster-enabled": "yes",
                    "cluster-config-file": "nodes.conf",
                    "cluster-node-timeout": "1000",
                    "cluster-port": str(free_port()),
                    "cluster-replica-validity-factor": "0",
                    "repl-diskless-sync-delay": "0",
                    "repl-ping-replica-period": "1",
                }
            )
            for _ in range(6)
        ]

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        for number, server in enumerate(self.servers, 1):
            server.start().ask("CLUSTER", "SET-CONFIG-EPOCH", number)
        masters, replicas = self.servers[:3], self.servers[3:]
        for master, (first, last) in zip(masters, self.SLOTS, strict=True):
            master.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        for server in self.servers[1:]:
            server.ask("CLUSTER", "MEET", HOST, masters[0].port, *self._bus(masters[0]))
        until(lambda: all(len(self._nodes(server)) == 6 for server in self.servers), "six nodes that know each other")
        for master, replica in zip(masters, replicas, strict=True):
            replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID"))
        until(self._whole, "a cluster that serves, with a replica in sync for each master")
        return self

    @property
    def url(self) -> str:
        return (
            f"redis+cluster://{HOST}:{self.servers[0].port},{HOST}:{self.servers[1].port},{HOST}:{self.servers[2].port}"
        )

    def master_of(self, key: str) -> Server:
        """Who serves the key, by the first node that answers."""
        slot = self.slot(key)
        asked = next(server for server in self.servers if server.alive)
        for first, last, master, *_ in asked.ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(server for server in self.servers if server.port == master[1])
        raise AssertionError(f"nobody holds slot {slot}")

    def slot(self, key: str) -> int:
        asked = next(server for server in self.servers if server.alive)
        return int(asked.ask("CLUSTER", "KEYSLOT", key))

    def masters(self) -> list[Server]:
        return [server for server in self.servers if server.alive and server.ask("ROLE")[0] == b"master"]

    def move(self, key: str, target: Server) -> None:
        """Give the key's slot, with the keys in it, to another master."""
        slot, source = self.slot(key), self.master_of(key)
        to, of = target.ask("CLUSTER", "MYID"), source.ask("CLUSTER", "MYID")
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", of)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to)
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
        for server in (target, source, *[other for other in self.masters() if other not in (target, source)]):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", to)

    def heal(self) -> None:
        """Bring back whoever was killed or suspended."""
        for server in self.servers:
            if server.alive:
                server.resume()
            else:
                server.start()
        until(self._whole, "a cluster that serves, with a replica in sync for each master")

    def _bus(self, server: Server) -> list[int]:
        line = next(line for line in server.config.read_text().splitlines() if line.startswith("cluster-port "))
        return [int(line.split()[1])]

    def _nodes(self, server: Server) -> list[str]:
        lines = server.ask("CLUSTER", "NODES").decode().splitlines()
        return [line for line in lines if "handshake" not in line and "noaddr" not in line and "fail" not in line]

    def _whole(self) -> bool:
        for server in self.servers:
            if "cluster_state:ok" not in server.ask("CLUSTER", "INFO").decode() or len(self._nodes(server)) != 6:
                return False
            replication = server.info("replication")
            if replication["role"] == "master" and "state=online" not in replication.get("slave0", ""):
                return False
            if replication["role"] == "slave" and replication["master_link_status"] != "up":
                return False
        return len(self.masters()) == 3

    def close(self) -> None:
        for server in self.servers:
            server.close()


class Relay:
    """A TCP relay in front of a server, in the loop of the test. `url` leads through it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.port = 0
        self.sent: list[bytes] = []  # what clients sent, read by read
        self.accepted = 0
        self._listener: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return self._server.url.replace(f":{self._server.port}", f":{self.port}")

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()
        self._flowing.set()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, HOST, self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Every connection is reset, and new ones are refused, until `restore`."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.reset()

    def reset(self) -> None:
        """Every connection is reset; new ones are welcome."""
        for writer in self._writers:
            writer.transport.abort()

    def black_hole(self) -> None:
        """Connections stand, and new ones come about, but nothing passes in either direction, until `restore`."""
        self._flowing.clear()

    async def restore(self) -> None:
        """As if nothing had been: what was held back arrives now."""
        self._flowing.set()
        if self._listener is None:
            await self._listen()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        self._writers.add(writer)
        try:
            await self._flowing.wait()
            up_reader, up_writer = await asyncio.open_connection(HOST, self._server.port)
            self._writers.add(up_writer)
            try:
                await asyncio.gather(self._pass(reader, up_writer, self.sent), self._pass(up_reader, writer, None))
            finally:
                self._writers.discard(up_writer)
                up_writer.transport.abort()
        except OSError:
            pass  # one side has gone, so the other goes
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, seen: list[bytes] | None) -> None:
        while data := await source.read(1 << 16):
            if seen is not None:
                seen.append(data)
            await self._flowing.wait()
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError


@contextlib.contextmanager
def single(options: Options | None = None, **more: Any) -> Iterator[Server]:  # noqa: ANN401 - those of Server
    """A server of the test's own."""
    server = Server(options, **more)
    try:
        yield server.start()
    finally:
        server.close()
