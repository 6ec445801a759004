"""Units a second through `Router.assign`, 10,000 a batch, against a Redis on this machine, beside a named baseline.

`python tests/benchmarks/test_bench_assign.py` prints it. Baseline: SET NX PX and GET of every unit in one pipeline,
which is what a client library offers. Looked at by people, not asserted.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra import stack
from router import AssignmentRequest, MemoryAssignments, Router
from sluice.adapters.assignments import AssignmentStore
from sluice.adapters.redis import connect
from sluice.domain.assignment import AssignmentClaims, Claim, StoredAssignment, decode_assignment, encode_assignment
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


def speed(store: AssignmentClaims, batches: int, first: int, experiment: Any = STICKY) -> tuple[float, float]:
    """(units a second that are new, that are known), medians over batches."""
    router = Router([experiment], store)
    rates: list[list[float]] = [[], []]
    for number in range(batches):
        wanted = requests(first + number * BATCH)
        for kind in (0, 1):
            start = time.perf_counter()
            router.assign(wanted)
            rates[kind].append(BATCH / (time.perf_counter() - start))
    new, known = (sorted(found)[len(found) // 2] for found in rates)
    return new, known


def main(batches: int = 7) -> None:
    with (
        tempfile.TemporaryDirectory() as state,
        stack.start("embedded", Settings(state=Path(state))) as running,
        connect(running.settings) as client,
    ):
        version = client.info("server")["redis_version"]
        print(platform.processor() or platform.machine(), platform.python_version(), "Redis", version)
        base = speed(Pipelined(client, Keys("baseline:")), batches, 0)
        print(f"SET NX + GET in a pipeline: {base[0]:,.0f} new, {base[1]:,.0f} known units/s")
        rows: list[tuple[str, AssignmentClaims, Any]] = [
            ("Router.assign, sticky in Redis", AssignmentStore(client, Keys("ours:")), STICKY),
            ("Router.assign, sticky in memory", MemoryAssignments(), STICKY),
            ("Router.assign, roll-out", MemoryAssignments(), ROLLOUT),
        ]
        for label, store, experiment in rows:
            new, known = speed(store, batches, 0, experiment)
            print(
                f"{label}: {new:,.0f} new ({new / base[0]:.1f}x), {known:,.0f} known units/s ({known / base[1]:.1f}x)"
            )


if __name__ == "__main__":
    main()
