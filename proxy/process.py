"""What a process asks of its machine and of Python: open files, and a collector that leaves what is stored alone."""

import gc
import logging
import resource

_log = logging.getLogger("readthrough")


def raise_file_limit(needed: int) -> None:
    """Every connection is an open file: lift the soft limit to what is needed, or say it is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    ceiling = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
    if ceiling < needed:
        _log.warning(
            "only %d files may be open where the configured connections need %d: raise ulimit -n", ceiling, needed
        )


def spare_the_collector() -> None:
    """Entries live long and hold no cycles: to walk them all again and again would stop the loop, for longer with
    every entry. So what a full collection has looked at once is not looked at again, and collections are small.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000, 5, 1)
    gc.callbacks.append(_freeze_survivors)


def trouble_the_collector() -> None:
    """Let it look at everything again."""
    if _freeze_survivors in gc.callbacks:
        gc.callbacks.remove(_freeze_survivors)


def _freeze_survivors(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()
