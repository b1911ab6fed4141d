"""The command line: what to serve and how to say no. Exit codes: 0 done, 1 failed, 2 wrong input."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from proxy import settings
from proxy.settings import ConfigError, Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code. Raises SystemExit(2) where the arguments are wrong."""
    parser = _parser()
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] in ("explain", "purge", "stats"):
        parser.error(f"{given[0]} is not available yet in this release")
    args = parser.parse_args(given)
    try:
        match args.command:
            case "serve":
                return _serve(args, parser)
            case "check":
                return _check(args.config)
            case "schema":
                print(json.dumps(settings.json_schema(), indent=2))
            case _:
                return _version()
    except ConfigError as error:
        _complain(map(str, error.errors))
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="readthrough", description="A read-through caching reverse proxy.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the proxy", allow_abbrev=False)
    serve.add_argument("-c", "--config", metavar="FILE", help="YAML configuration")
    serve.add_argument("--upstream", metavar="URL", help="front this API, without a configuration")
    serve.add_argument("--listen", metavar="HOST:PORT", help="where clients connect (0.0.0.0:8080)")
    serve.add_argument("--admin", metavar="HOST:PORT", help="where operators connect (127.0.0.1:8081)")

    check = commands.add_parser("check", help="say everything that is wrong with a configuration", allow_abbrev=False)
    check.add_argument("-c", "--config", metavar="FILE", required=True, help="YAML configuration")

    commands.add_parser("schema", help="print the JSON Schema of the configuration", allow_abbrev=False)
    commands.add_parser("version", help="print the version", allow_abbrev=False)
    return parser


def _serve(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if (args.config is None) == (args.upstream is None):
        parser.error(
            "serve needs -c FILE or --upstream URL"
            if args.config is None
            else "drop --upstream, which is a whole configuration, or -c"
        )

    def read() -> Settings:
        base = (
            settings.from_upstream(args.upstream)
            if args.config is None
            else settings.load(Path(args.config), os.environ)
        )
        return settings.override(base, listen=args.listen, admin=args.admin)

    first = read()
    # The other commands start fast because they do not load the server.
    from proxy.app import run  # noqa: PLC0415

    return run(first, read)


def _check(config: str) -> int:
    _, warnings = settings.check(Path(config), os.environ)
    _complain(f"{warning.place}: warning: {warning.text}" for warning in warnings)
    print(f"{config}: ok")
    return 0


def _version() -> int:
    try:
        print(f"readthrough {version('readthrough')}")
    except PackageNotFoundError:
        _complain(["readthrough is not installed here, so that it has no version"])
        return 1
    return 0


def _complain(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)
