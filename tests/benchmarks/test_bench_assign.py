"""Units a second through `Router.assign`, 10,000 a batch, against a Redis on this machine, beside a named baseline.

`python tests/benchmarks/test_bench_assign.py` prints it. Baseline: SET NX PX and GET of every unit in one pipeline,
which is what a client library offers. Looked at by people, not asserted.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra import stack
from router import AssignmentRequest, MemoryAssignments, Router
from sluice.adapters.assignments import AssignmentStore
from sluice.adapters.redis import connect
from sluice.domain.assignment import Claim, StoredAssignment, decode_assignment, encode_assignment
from sluice.domain.experiment import load_experiments
from sluice.names import Keys
from sluice.settings import Settings

BATCH = 10_000
STICKY = load_experiments("{name: e, variants: [{name: a}, {name: b}]}", "bench")[0]
ROLLOUT = load_experiments("{name: e, assignment: rollout, variants: [{name: a}, {name: b}]}", "bench")[0]


class Pipelined:
    """The baseline."""

    def __init__(self, client: Any, keys: Keys) -> None:
        self._client, self._keys = client, keys

    def claim(self, claims: Sequence[Claim]) -> list[tuple[StoredAssignment, bool]]:
        pipeline = self._client.pipeline(transaction=False)
        for claim in claims:
            key = self._keys.assignment(claim.experiment, claim.unit)
            pipeline.execute_command("SET", key, encode_assignment(claim.wanted), "NX", "PX", claim.ttl_ms)
            pipeline.execute_command("GET", key)
        answers = pipeline.execute()
        return [
            (decode_assignment(stored), bool(made)) for made, stored in zip(answers[::2], answers[1::2], strict=True)
        ]

    def replace(self, claims: Sequence[tuple[Claim, StoredAssignment]]) -> list[tuple[StoredAssignment, bool]]:
        raise NotImplementedError


def requests(start: int) -> list[AssignmentRequest]:
    return [AssignmentRequest(f"user-{start + n}", {}, n) for n in range(BATCH)]


def test_the_baseline_answers_as_the_router_does(embedded: Settings) -> None:
    with connect(embedded) as client:
        ours = Router([STICKY], AssignmentStore(client, Keys("ours:"))).assign(requests(0)[:200])
        baseline = Router([STICKY], Pipelined(client, Keys("baseline:"))).assign(requests(0)[:200])
    assert ours == baseline


def speed(router: Router, wanted: list[AssignmentRequest]) -> float:
    """Units a second."""
    start = time.perf_counter()
    router.assign(wanted)
    return len(wanted) / (time.perf_counter() - start)


def main(batches: int = 9) -> None:
    with (
        tempfile.TemporaryDirectory() as state,
        stack.start("embedded", Settings(state=Path(state))) as running,
        connect(running.settings) as client,
    ):
        version = client.info("server")["redis_version"]
        print(platform.processor() or platform.machine(), platform.python_version(), "Redis", version)
        baseline = "SET NX + GET in a pipeline"
        routers = {
            baseline: Router([STICKY], Pipelined(client, Keys("baseline:"))),
            "Router.assign, sticky in Redis": Router([STICKY], AssignmentStore(client, Keys("ours:"))),
            "Router.assign, sticky in memory": Router([STICKY], MemoryAssignments()),
            "Router.assign, roll-out": Router([ROLLOUT], MemoryAssignments()),
        }
        # In turn, batch by batch, each new and then known: what the machine does besides meets all alike.
        rates: dict[str, list[tuple[float, float]]] = {label: [] for label in routers}
        for number in range(batches):
            wanted = requests(number * BATCH)
            for label, router in routers.items():
                rates[label].append((speed(router, wanted), speed(router, wanted)))
        for label, found in rates.items():
            new, known = (statistics.median(column) for column in zip(*found, strict=True))
            pairs = zip(found, rates[baseline], strict=True)
            times = [(one[0] / base[0], one[1] / base[1]) for one, base in pairs]
            ratio_new, ratio_known = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{label}: {new:,.0f} new ({ratio_new:.1f}x), {known:,.0f} known units/s ({ratio_known:.1f}x)")


if __name__ == "__main__":
    main()
