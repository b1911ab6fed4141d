"""Every key of the configuration but those of routes: what it takes, what it means, and where it is needed."""

from typing import Any, Final

from proxy.config.kinds import Choice, File, Key, ListOf, MapOf, OrOff, Section
from proxy.config.limiting import GATE
from proxy.config.routing import CACHE, ROUTE
from proxy.config.vocabulary import (
    ADDRESS,
    BEARER,
    BOOLEAN,
    HOST,
    NAMED,
    NETWORK,
    REDIS_URL,
    SERVER_NAME,
    SIZE,
    URL,
    duration,
    integer,
)
from proxy.rules.limits import Limits
from proxy.settings import Admin, Breaker, PurgeMethod, Redis, ServerTls, Settings, Shutdown, Upstream, UpstreamTls

_TIME: Final = duration()
_WAIT: Final = duration(positive=True)
_COUNT: Final = integer(1)

_UPSTREAM: Final = Section(
    {
        "url": Key(URL, "Scheme, host, port and base path.", required=True),
        "preserve_host": Key(BOOLEAN, "Whether the upstream gets the client's Host instead of its own."),
        "connect_timeout": Key(_WAIT, "For a new connection."),
        "timeout": Key(_WAIT, "To the response head."),
        "max_connections": Key(_COUNT, "Open connections to it."),
        "tls": Key(
            Section(
                {
                    "ca": Key(File(), "Who may sign the upstream's certificate; else the system's."),
                    "certificate": Key(File(), "Our certificate."),
                    "key": Key(File(), "Its key."),
                    "server_name": Key(SERVER_NAME, "Name to ask for and to verify, in place of the URL's host."),
                },
                UpstreamTls,
                built=True,
            ),
            "How to speak https to it.",
        ),
        "breaker": Key(
            Section(
                {
                    "failures": Key(_COUNT, "Failures in a row that open it."),
                    "open": Key(_WAIT, "How long nothing is sent then."),
                },
                Breaker,
                built=True,
            ),
            "When to leave a failing upstream alone.",
        ),
        "max_concurrent": Key(
            GATE, "How many requests are under way to it at once; a number, or a mapping.", field="gate"
        ),
    },
    Upstream,
)
ROOT: Final = Section(
    {
        "listen": Key(ADDRESS, "Where clients connect."),
        "workers": Key(_COUNT, "Processes that serve on one port. More than 1 needs redis."),
        "tls": Key(
            Section(
                {
                    "certificate": Key(File(), "Certificate and chain, PEM.", required=True),
                    "key": Key(File(), "Its key, PEM.", required=True),
                },
                ServerTls,
                built=True,
            ),
            "Makes the listener https.",
        ),
        "trusted_proxies": Key(ListOf(NETWORK), "Peers whose X-Forwarded-… and Forwarded are believed."),
        "access_log": Key(Choice({"json": True, "off": False}), "One line per request on standard output, or none."),
        "tracing": Key(
            Choice({"on": True, "off": False}),
            "Spans by OpenTelemetry, which OTEL_… variables set up; needs the extra readthrough[otel].",
        ),
        "limits": Key(
            Section(
                {
                    "max_header_bytes": Key(SIZE, "Request line and headers."),
                    "max_headers": Key(_COUNT, "Header lines of a request."),
                    "header_timeout": Key(_WAIT, "From a request's first byte to the end of its head."),
                    "body_timeout": Key(
                        _WAIT,
                        "Without any byte of a body, from the client or, server-sent events apart, from the upstream.",
                    ),
                    "write_timeout": Key(_WAIT, "Without the client taking any byte."),
                    "idle_timeout": Key(_WAIT, "Between requests."),
                    "max_connections": Key(_COUNT, "Client connections."),
                    "flight_memory": Key(SIZE, "All that fetches under way hold for those that follow them."),
                },
                Limits,
                built=True,
            ),
            "What a client may ask for.",
        ),
        "shutdown": Key(
            Section(
                {
                    "delay": Key(_TIME, "Not ready but serving."),
                    "timeout": Key(_TIME, "Then at most this for what is in flight."),
                },
                Shutdown,
                built=True,
            ),
            "How it stops.",
        ),
        "admin": Key(
            Section(
                {
                    "listen": Key(ADDRESS, "Where operators connect."),
                    "token": Key(BEARER, "What they send as Authorization: Bearer."),
                    "hosts": Key(ListOf(HOST), "Host values accepted beside loopback and the listen address."),
                },
                Admin,
                built=True,
                private=True,
            ),
            "The admin listener.",
        ),
        "memory": Key(
            Section({"max_size": Key(SIZE, "All that is stored.", field="memory_max_size")}, Settings),
            "The store in memory.",
        ),
        "redis": Key(
            Section(
                {
                    "url": Key(REDIS_URL, "Where it is.", required=True),
                    "prefix": Key(NAMED, "What its keys begin with."),
                    "when_unreachable": Key(
                        Choice({"serve": False, "revalidate": True}),
                        "What hits do without it: serve for max_blind, or ask the upstream.",
                        field="revalidate",
                    ),
                    "max_blind": Key(_WAIT, "For how long a purge may be missed."),
                    "after_gap": Key(
                        Choice({"revalidate": False, "drop": True}),
                        "What becomes of entries when invalidations are lost.",
                        field="drop",
                    ),
                },
                Redis,
                built=True,
                private=True,
            ),
            "What many instances share.",
        ),
        "upstreams": Key(MapOf(NAMED, _UPSTREAM, least=1), "The APIs, by name.", required=True),
        "defaults": Key(
            Section({"cache": Key(OrOff(CACHE), "Under every route's cache.")}), "What routes need not repeat."
        ),
        "routes": Key(ListOf(ROUTE, least=1), "Which request goes where; the first match wins.", required=True),
        "purge_method": Key(
            Section(
                {"allow": Key(ListOf(NETWORK, least=1), "Addresses of clients that may.", required=True)},
                PurgeMethod,
                built=True,
            ),
            "PURGE on the data listener; absent, it is refused.",
        ),
    },
    Settings,
)


def json_schema() -> dict[str, Any]:
    """The configuration as JSON Schema, draft 2020-12: what can be said of each value by itself."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Readthrough configuration",
        **ROOT.schema(),
    }
