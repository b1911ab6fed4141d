"""wrk: writes its script, runs it, and refuses any measurement in which something went wrong."""

import itertools
import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.benchmarks.cases import Traffic
from tests.benchmarks.machine import Machine
from tests.benchmarks.wire import HOST, request

DRAWS: Final = 1 << 18  # of the Zipf sequence, before it repeats
SEED: Final = 1
MARK: Final = "\x00"  # where a request is cut in two, for what is unique to go in

DONE: Final = """
done = function(summary)
  local e = summary.errors
  io.write(string.format('\\nRESULT {"requests":%d,"microseconds":%d,"bytes":%d,"errors":%d}\\n',
    summary.requests, summary.duration, summary.bytes, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Failed(Exception):
    """A measurement that must not be believed."""


@dataclass(frozen=True)
class Load:
    """What wrk did."""

    rate: float  # requests per second
    requests: int
    bytes_each: float


def script(traffic: Traffic, nonce: str, directory: Path) -> str:
    """The Lua text. Requests are made of strings that exist before the first is sent; `nonce` makes this run's
    unique parts differ from those of other runs.
    """
    if traffic.draw == "same":
        # Without a function `request`, wrk sends this one string and Lua is not called at all.
        return f"wrk.format = function() return {_lua(request(traffic.path, traffic.extra))} end\n{DONE}"
    extra = traffic.extra
    path = traffic.path
    if traffic.draw == "unique-field":
        extra = (*extra, ("X-Request-Id", f"{nonce}-{MARK}"))
    elif traffic.draw == "unique-url":
        path = f"{path}{nonce}-{MARK}"
    else:
        path = f"{path}{MARK}"
    before, _, after = request(path, extra).partition(MARK.encode())
    ends = f"local before, after = {_lua(before)}, {_lua(after)}\n"
    if traffic.draw in ("zipf", "even"):
        sequence = directory / "sequence"
        sequence.write_text(" ".join(map(str, zipf(traffic.keys, DRAWS, skew=int(traffic.draw == "zipf")))))
        return f"""{ends}
local made, drawn, n = {{}}, {{}}, 0
for key = 1, {traffic.keys} do made[key] = before .. key .. after end
for key in io.open("{sequence}"):read("*a"):gmatch("%d+") do drawn[#drawn + 1] = made[tonumber(key)] end
request = function()
  n = n % {DRAWS} + 1
  return drawn[n]
end
{DONE}"""
    return f"""{ends}
local n = 0
request = function()
  n = n + 1
  return before .. n .. after
end
{DONE}"""


def zipf(keys: int, draws: int, skew: int = 1) -> list[int]:
    """Numbers from 1 to `keys`, each as often as its rank's inverse, or with skew 0 all alike; the same ones every
    time.
    """
    cumulated = list(itertools.accumulate(1 / rank**skew for rank in range(1, keys + 1)))
    return random.Random(SEED).choices(range(1, keys + 1), cum_weights=cumulated, k=draws)


def run(machine: Machine, port: int, traffic: Traffic, seconds: int, nonce: str, directory: Path) -> Load:
    """Load a server for so long, on one thread."""
    file = directory / "load.lua"
    file.write_text(script(traffic, nonce, directory))
    command = [machine.wrk, "--threads", "1", "--connections", str(traffic.connections), "--timeout", "10s"]
    command += ["--duration", f"{seconds}s", "--script", str(file), f"http://{HOST}:{port}/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    return parse(done.stdout, done.stdout + done.stderr)


def parse(output: str, everything: str = "") -> Load:
    """What the script's last line says."""
    _, found, result = output.partition("RESULT ")
    if not found:
        raise Failed(f"wrk did not finish:\n{everything or output}")
    numbers: dict[str, int] = json.loads(result)
    if numbers["errors"] or not numbers["requests"]:
        raise Failed(f"errors under load:\n{everything or output}")
    rate = numbers["requests"] / numbers["microseconds"] * 1e6
    return Load(rate, numbers["requests"], numbers["bytes"] / numbers["requests"])


def _lua(data: bytes) -> str:
    """A string literal of Lua."""
    escaped = data.decode("ascii").replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n")
    return f'"{escaped}"'
