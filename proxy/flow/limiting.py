"""What a request would meet at the limits of its route and its upstream, for `explain`: nothing is charged."""

from typing import Final

from proxy.flow.explanation import Bucket, Doorway, Limiting, OverLimit, Pays
from proxy.flow.gate import Gate
from proxy.flow.limiter import Limit
from proxy.flow.site import Asked, Lane
from proxy.rules.lookup import Fetch, Plan
from proxy.rules.quota import GateRule, counted_by

_CLOSE: Final = 1e-7  # seconds that are no wait: arithmetic may be wrong by as much


def limiting(asked: Asked, lane: Lane, plan: Plan, peer: str | None, now: float, *, shared: bool) -> Limiting | None:
    """What the route's limits say to the plan, for a request from `peer`; None where it has none.

    `shared`: the buckets are those of a fleet, of which only this instance's knowledge is told.
    """
    limiter, gates = lane.limiter, lane.gates
    if limiter is None and gates is None:
        return None
    miss = isinstance(plan, Fetch)
    looked = [] if limiter is None else limiter.look(asked.payers, peer, now)
    door = None
    if gates is not None:
        client = None if asked.guest is None and peer is None else gates.client(asked.guest, peer or "")
        door = doorway(gates.rule, None if client is None else gates.gate(client), client, counted_by(gates.rule))
    return Limiting(
        pays=Pays.MISS if miss else Pays.HIT,
        reason=plan.reason,
        buckets=tuple([_bucket(limit, client, left, miss=miss) for limit, client, left in looked]),
        gate=door,
        here_only=shared and bool(looked),
    )


def doorway(rule: GateRule, gate: Gate | None, client: str | None = None, by: str | None = None) -> Doorway:
    """A gate as it is now; None is one that nobody is inside of."""
    inside, waiting = (0, 0) if gate is None else (gate.inside, gate.waiting)
    full = gate is not None and gate.full
    return Doorway(rule.requests, inside, rule.queue, waiting, rule.wait, full=full, by=by, client=client)


def _bucket(limit: Limit, client: str | None, left: float, *, miss: bool) -> Bucket:
    quota, wait = limit.quota, limit.wait(left, miss=miss)
    passes = wait <= _CLOSE
    return Bucket(
        name=quota.name,
        by=counted_by(quota),
        client=client,
        rate=quota.rate,
        burst=quota.burst,
        left=left,
        cost=limit.cost(miss=miss),
        passes=passes,
        wait=0.0 if passes else wait,
        over_limit=OverLimit.SERVE_STALE if quota.serve_stale else OverLimit.REJECT,
    )
