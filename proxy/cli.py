"""The command line: what to serve and how to say no.

Exit codes: 0 done, 1 failed, 2 wrong input, 3 accepted but not yet applied everywhere, 130 cut short by Ctrl-C.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO

from proxy.admin.durations import seconds

if TYPE_CHECKING:
    from proxy.admin.client import Instance
    from proxy.settings import Settings

_INTERRUPTED: Final = 130  # as a shell has it: 128 and the number of SIGINT
_WAIT: Final = "2s"
_WAITS: Final = 30.0  # seconds, which the admin endpoint waits at most


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code. Raises SystemExit(2) where the arguments are wrong."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        code = _run(args, parser)
        print(end="", flush=True)
    except BrokenPipeError:
        if args.command == "serve":
            raise
        _mute(sys.stdout)
        return 0  # there is nothing on standard output but of what is done
    except KeyboardInterrupt:
        doubt = ": it may have been applied, or not" if args.command == "purge" else ""
        _complain([f"interrupted{doubt}"])
        return _INTERRUPTED
    return code


def _run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    match args.command:
        case "explain":
            return _explain(args)
        case "purge":
            return _purge(args)
        case "stats":
            return _stats(args)
        case "version":
            return _version()
        case _:
            return _configured(args, parser)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="readthrough", description="A read-through caching reverse proxy.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="run the proxy",
        epilog="With --upstream, READTHROUGH_TOKEN is the token that operators need.",
        allow_abbrev=False,
    )
    serve.add_argument("-c", "--config", metavar="FILE", help="YAML configuration")
    serve.add_argument("--upstream", metavar="URL", help="front this API, without a configuration")
    serve.add_argument("--listen", metavar="HOST:PORT", help="where clients connect (0.0.0.0:8080)")
    serve.add_argument("--admin", metavar="HOST:PORT", help="where operators connect (127.0.0.1:8081)")
    serve.add_argument("--worker", help=argparse.SUPPRESS)  # how the supervisor starts the processes of `workers: N`

    check = commands.add_parser("check", help="say everything that is wrong with a configuration", allow_abbrev=False)
    check.add_argument("-c", "--config", metavar="FILE", required=True, help="YAML configuration")

    commands.add_parser("schema", help="print the JSON Schema of the configuration", allow_abbrev=False)
    _add_explain(commands)
    _add_purge(commands)
    stats = commands.add_parser(
        "stats",
        help="how a running instance does",
        epilog="Exit codes: 0 told, also where Ctrl-C ends --watch, 1 failed, 2 wrong input, 130 Ctrl-C before.",
        allow_abbrev=False,
    )
    stats.add_argument("--watch", action="store_true", help="every second, until Ctrl-C")
    _add_instance(stats)
    stats.set_defaults(error=stats.error)
    commands.add_parser("version", help="print the version", allow_abbrev=False)
    return parser


def _add_explain(commands: Any) -> None:  # noqa: ANN401 - argparse does not name this type
    explain = commands.add_parser(
        "explain",
        help="say how a request would be answered, and why",
        description="Say how a request would be answered, and why. It is not made: nothing is fetched or stored.",
        epilog="Exit codes: 0 explained, 1 failed, 2 wrong input, 130 Ctrl-C.",
        allow_abbrev=False,
    )
    explain.add_argument("url", metavar="URL", help="what would be asked for, with scheme and host")
    explain.add_argument("-X", "--method", metavar="METHOD", default="GET", help="GET unless another is named")
    explain.add_argument(
        "-H", "--header", metavar="'Name: value'", action="append", default=[], help="of the request; may be repeated"
    )
    explain.add_argument("--client", metavar="IP", help="whose request it would be; it counts for limits")
    explain.add_argument("--json", action="store_true", help="print the data instead of a page")
    _add_instance(explain)
    explain.set_defaults(error=explain.error)


def _add_purge(commands: Any) -> None:  # noqa: ANN401 - argparse does not name this type
    purge = commands.add_parser(
        "purge",
        help="make stored answers disappear, in every instance",
        description="Make stored answers disappear, in every instance. What is named in one call goes at once;"
        " --url, --prefix, --tag and --host may be given several times.",
        epilog="Exit codes: 0 applied everywhere, 1 failed, 2 wrong input, 3 accepted but not yet applied everywhere,"
        " 130 Ctrl-C: it may have been applied, or not.",
        allow_abbrev=False,
    )
    for name, metavar, what in (
        ("url", "U", "this URL with all its variants; /path means on every scheme and host"),
        ("prefix", "P", "everything below this URL or path, cut at segments"),
        ("tag", "T", "everything with this tag"),
        ("host", "H", "everything of this host"),
    ):
        purge.add_argument(f"--{name}", metavar=metavar, action="append", default=[], help=what)
    purge.add_argument("--all", action="store_true", help="everything")
    purge.add_argument("--soft", action="store_true", help="make it stale, to be served while it is asked for anew")
    purge.add_argument(
        "--wait", metavar="TIME", default=_WAIT, help=f"for every instance to have applied it, at most 30s ({_WAIT})"
    )
    _add_instance(purge)
    purge.set_defaults(error=purge.error)


def _add_instance(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--admin", metavar="URL", help="where the admin listener is (READTHROUGH_ADMIN, http://127.0.0.1:8081)"
    )
    command.add_argument("--token", metavar="T", help="its token; others can see it here: rather READTHROUGH_TOKEN")


def _configured(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """The commands that read a configuration."""
    from proxy.config.document import ConfigError  # noqa: PLC0415 - what only talks to an instance starts fast without

    try:
        match args.command:
            case "serve":
                return _serve(args, parser)
            case "check":
                return _check(args.config)
            case _:
                from proxy.config.keys import json_schema  # noqa: PLC0415 - likewise

                print(json.dumps(json_schema(), indent=2))
    except ConfigError as error:
        _complain(map(str, error.errors))
        return 2
    return 0


def _serve(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.worker is not None:
        from proxy.worker import work  # noqa: PLC0415 - see below

        return work(args.worker)
    from proxy.config.load import TOKEN, from_upstream, load, override  # noqa: PLC0415 - see above

    if (args.config is None) == (args.upstream is None):
        parser.error(
            "serve needs -c FILE or --upstream URL"
            if args.config is None
            else "drop --upstream, which is a whole configuration, or -c"
        )

    def read() -> "Settings":
        if args.config is None:
            base = from_upstream(args.upstream, os.environ.get(TOKEN) or None)
        else:
            base = load(Path(args.config), os.environ)
        return override(base, listen=args.listen, admin=args.admin)

    first = read()
    # The other commands start fast because they do not load the server.
    if first.workers > 1:
        from proxy.workers import supervise  # noqa: PLC0415

        return supervise(first, read)
    from proxy.app import run  # noqa: PLC0415

    return run(first, read)


def _check(config: str) -> int:
    from proxy.config.load import check  # noqa: PLC0415 - see above

    _, warnings = check(Path(config), os.environ)
    _complain(f"{warning.place}: warning: {warning.text}" for warning in warnings)
    print(f"{config}: ok")
    return 0


def _explain(args: argparse.Namespace) -> int:
    from proxy.admin.client import Unanswered  # noqa: PLC0415 - the others start faster without
    from proxy.admin.page import render  # noqa: PLC0415 - likewise

    error: Callable[[str], NoReturn] = args.error
    headers = [header.partition(":") for header in args.header]
    if wrong := next((name for name, colon, _ in headers if not colon), None):
        error(f"-H: {wrong!r} is no header; write 'Name: value'")
    members: dict[str, Any] = {
        "method": args.method,
        "url": args.url,
        "headers": [[name, value.strip()] for name, _, value in headers],
    }
    if args.client is not None:
        members["client"] = args.client
    instance = _instance(args)
    try:
        answer = instance.post("/explain", members, 0.0)
    except Unanswered as silence:
        _complain([f"not explained: {silence}"])
        return 1
    if answer.status != 200:
        _complain([f"not explained: {instance} says {answer.status}: {_detail(answer.members)}"])
        _complain(_mistakes(answer.members))
        return 2 if answer.status in (400, 413) else 1
    if not isinstance(answer.members.get("steps"), list):
        _complain([f"not explained: {instance} does not answer as an admin listener does"])
        return 1
    if args.json:
        print(json.dumps(answer.members, indent=2))
    else:
        print("\n".join(render(answer.members, bold=sys.stdout.isatty())))
    return 0


def _instance(args: argparse.Namespace) -> "Instance":
    """The running one that is meant."""
    from proxy.admin.client import DEFAULT, Instance  # noqa: PLC0415 - the others start faster without

    try:
        return Instance.at(
            args.admin or os.environ.get("READTHROUGH_ADMIN") or DEFAULT,
            args.token or os.environ.get("READTHROUGH_TOKEN") or None,
        )
    except ValueError as wrong:
        error: Callable[[str], NoReturn] = args.error
        error(f"the admin listener: {wrong}")


def _purge(args: argparse.Namespace) -> int:
    from proxy.admin.client import Unanswered  # noqa: PLC0415 - the others start faster without

    error: Callable[[str], NoReturn] = args.error
    lists = {"urls": args.url, "prefixes": args.prefix, "tags": args.tag, "hosts": args.host}
    members: dict[str, Any] = {name: given for name, given in lists.items() if given}
    if args.all:
        members["all"] = True
    if not members:
        error("name what is to go: --url, --prefix, --tag, --host or --all")
    wait = seconds(args.wait)
    if wait is None:
        error(f"--wait: {args.wait!r} is not a duration; write 250ms or 2s")
    instance = _instance(args)
    try:
        answer = instance.post(f"/invalidate?wait={args.wait}", {**members, "soft": args.soft}, min(wait, _WAITS))
    except Unanswered as silence:
        _complain([f"not purged, as far as is known: {silence}"])
        return 1
    match answer.status:
        case 200 | 202 if not isinstance(answer.members.get("id"), str):
            _complain([f"not purged, as far as is known: {instance} does not answer as an admin listener does"])
            return 1
        case 200:
            print(f"purged: {_plain(answer.members.get('id'))}, {_everywhere(answer.members)}")
            return 0
        case 202:
            _complain([f"accepted: {_plain(answer.members.get('id'))}, {_missing(answer.members)}"])
            return 3
        case status:
            said = f"{instance} says {status}: {_detail(answer.members)}"
            doubt = ", as far as is known" if status == 503 else ""  # the detail says whether it may come about
            _complain([f"not purged{doubt}: {said}"])
            _complain(_mistakes(answer.members))
            return 2 if status in (400, 413) else 1


def _stats(args: argparse.Namespace) -> int:
    from proxy.admin.live import stats  # noqa: PLC0415 - the others start faster without

    return stats(_instance(args), watch=args.watch, complain=lambda line: _complain([line]))


def _detail(members: Mapping[str, Any]) -> str:
    return _plain(members.get("detail", "nothing more"))


def _everywhere(members: Mapping[str, Any]) -> str:
    applied = members.get("applied")
    if not isinstance(applied, dict) or not applied:
        return "applied"
    slowest = max((ms for ms in applied.values() if isinstance(ms, int | float)), default=0)
    return f"applied by {len(applied)} instance{'s' if len(applied) > 1 else ''} within {slowest:g} ms"


def _missing(members: Mapping[str, Any]) -> str:
    pending = members.get("pending")
    if not isinstance(pending, list) or not pending:
        return "but it is not known by whom it is applied"
    return f"but not yet applied by {', '.join(map(_plain, pending))}"


def _mistakes(members: Mapping[str, Any]) -> Iterable[str]:
    errors = members.get("errors")
    for error in errors if isinstance(errors, list) else ():
        if isinstance(error, dict):
            yield "  {}: {}; {}".format(*(_plain(error.get(name)) for name in ("at", "what", "instead")))


def _plain(text: object) -> str:
    from proxy.admin.page import plain  # noqa: PLC0415 - the others start faster without

    return plain(text)


def _version() -> int:
    try:
        print(f"readthrough {version('readthrough')}")
    except PackageNotFoundError:
        _complain(["readthrough is not installed here, so that it has no version"])
        return 1
    return 0


def _complain(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            print(line, file=sys.stderr)
    except BrokenPipeError:
        _mute(sys.stderr)


def _mute(stream: TextIO) -> None:
    """Write to nowhere what nobody reads any more: else Python would complain of it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
