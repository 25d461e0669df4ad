"""`idle`: pulls with nothing new, beside a Django view that does nothing, on the same server with the same load."""

from statistics import median

from bench.load import Client, Target, rate
from bench.pull import tail
from bench.report import Demand, Outcome
from bench.server import Server

CLIENTS = 16
ROUNDS = 7
ROUND_SECONDS = 1.5
FEW_ROWS = 1_000
MANY_ROWS = 1_000_000


def run(server: Server) -> Outcome:
    server.fill(FEW_ROWS)
    few, noop = _rates(server)
    server.fill(MANY_ROWS)
    many, noop_beside_many = _rates(server)
    # Each beside the no-op of its own time, so that a change of the machine's load in between does not count.
    growth = (few / noop) / (many / noop_beside_many)
    return Outcome(
        "idle",
        f"{few:,.0f} pulls/s by {CLIENTS} clients; {many:,.0f} with {MANY_ROWS:,} rows",
        f"{noop:,.0f} requests/s of an empty view; {noop_beside_many:,.0f}",
        {
            "pulls_per_s": few,
            "limit_requests_per_s": noop,
            "ratio": few / noop,
            "pulls_per_s_1m_rows": many,
            "limit_requests_per_s_1m_rows": noop_beside_many,
            "growth": growth,
        },
        [
            Demand("ratio", at_least=0.2),
            Demand("growth", at_most=1.2),
            Demand("pulls_per_s", at_least=6_072, aim=True),
        ],
    )


def _rates(server: Server) -> tuple[float, float]:
    """Pulls and no-ops a second: the median of rounds that take turns."""
    targets = server.devices(CLIENTS)
    pulls = [(target, target.request("GET", f"/sync/pull?token={current(target)}")) for target in targets]
    noops = [(target, target.request("GET", "/sync/noop")) for target in targets]
    ours, limits = [], []
    for at in range(ROUNDS + 1):
        found, limit = rate(pulls, ROUND_SECONDS), rate(noops, ROUND_SECONDS)
        if at:  # the first is a warm-up of both
            ours.append(found)
            limits.append(limit)
    return median(ours), median(limits)


def current(target: Target) -> str:
    """The token of a device that has everything."""
    client = Client(target)
    token, has_more = "", True
    while has_more:
        token, has_more = tail(client.get("/sync/pull?limit=10000" + (f"&token={token}" if token else "")))
    client.close()
    return token
