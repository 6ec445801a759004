"""Every metric of every service: names, kinds, units, labels and meanings are in `METRICS`, and nowhere else.

Labels have few values: routes and statuses are the services' own, experiments and variants those of the catalogue,
model versions those that served since the start. Beside these each service
tells of its process what prometheus-client tells by itself: `process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_open_fds` and so on. `sluice.adapters.metrics` counts and reads them,
`sluice.adapters.exporter` serves them. `python -m sluice.adapters.telemetry > docs/metrics.md` writes the page.
"""

from __future__ import annotations

import sys
from typing import Literal, NamedTuple

__all__ = ["METRICS", "SERVICES", "Described", "Service", "page"]

Service = Literal["router", "process", "features", "resolve", "analyze", "replay", "dashboard", "drift", "lifecycle"]
SERVICES: dict[Service, str] = {
    "router": "`sluice route`",
    "process": "`sluice process`",
    "features": "`sluice features`",
    "resolve": "`sluice resolve`",
    "analyze": "`sluice analyze`",
    "replay": "`sluice replay`",
    "dashboard": "`sluice dashboard`",
    "drift": "`sluice drift --follow`",
    "lifecycle": "`sluice lifecycle run`",
}
"""Service, as label `service` of `sluice_info` and in the logs → the command that runs it"""


class Described(NamedTuple):
    """One metric. `read` ones are looked up when somebody asks; the others are counted as things happen."""

    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    meaning: str
    services: tuple[Service, ...]
    """Those that export it"""
    buckets: tuple[float, ...] = ()
    read: bool = False


_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SCORES = tuple(step / 20 for step in range(1, 20))
_ALL: tuple[Service, ...] = tuple(SERVICES)
_ROUTES: tuple[Service, ...] = ("router", "replay")
_VARIANT = ("experiment", "variant")
_LIFE = ("model", "alias")


def _counted(kind: Literal["counter", "histogram"], unit: str, labels: tuple[str, ...], meaning: str,
             *services: Service, buckets: tuple[float, ...] = ()) -> Described:  # fmt: skip
    return Described(kind, unit, labels, meaning, services, buckets)


def _gauge(unit: str, labels: tuple[str, ...], meaning: str, *services: Service) -> Described:
    return Described("gauge", unit, labels, meaning, services, read=True)


def _total(unit: str, labels: tuple[str, ...], meaning: str, *services: Service) -> Described:
    """A counter that somebody keeps already."""
    return Described("counter", unit, labels, meaning, services, read=True)


_OF_ALL = {
    "sluice_info": _gauge("", ("service", "version"), "1; the version of Sluice that runs", *_ALL),
    "sluice_ready": _gauge("", (), "1 while the service does its work, as `/ready` says", *_ALL),
    "sluice_away": _gauge("", ("server",), "1 while the service does without `redis` or `kafka`", *_ALL),
    "sluice_redis_errors_total": _total("errors", (), "Calls of Redis that failed, each try by itself", *_ALL),
    "sluice_kafka_errors_total": _total(
        "errors", ("error",), "Errors that the Kafka client told, by its name: `_ALL_BROKERS_DOWN`, …", *_ALL
    ),
}
_HTTP = {
    "sluice_http_requests_total": _counted(
        "counter", "requests", ("route", "status"), "Requests answered; a route nobody knows is `other`",
        "router", "dashboard",
    ),
    "sluice_http_request_seconds": _counted(
        "histogram", "seconds", ("route",), "From the request's head to the answer's last byte",
        "router", "dashboard", buckets=_SECONDS,
    ),
}  # fmt: skip
_EXPERIMENTS = {
    "sluice_experiment_info": _gauge(
        "", ("experiment", "status"), "1 for the status of each experiment: `draft`, `running`, `paused`, …",
        "router", "analyze",
    ),
    "sluice_variant_info": _gauge(
        "", (*_VARIANT, "role", "ranker"), "1; `role` is `control` or `treatment`, `ranker` the rule or model",
        "router", "analyze",
    ),
}  # fmt: skip
_ROUTING = {
    "sluice_assignments_total": _counted(
        "counter", "assignments", (*_VARIANT, "model_version"),
        "Units that were given a variant; the version of the variant's model where one ranks, else empty", *_ROUTES,
    ),
    "sluice_assignments_drawn_total": _counted(
        "counter", "assignments", _VARIANT, "Those of them that were drawn now, not kept from an earlier draw", *_ROUTES
    ),
    "sluice_assignments_expected_total": _counted(
        "counter", "assignments", _VARIANT,
        "What the drawn ones were to be: each draw adds every variant's share of the allocation it was made with",
        *_ROUTES,
    ),
    "sluice_assignments_degraded_total": _counted(
        "counter", "assignments", ("experiment",), "Those drawn by hash alone because Redis was away", "router"
    ),
    "sluice_allocation_share": _gauge("ratio", _VARIANT, "Share of new units in the allocation in use", *_ROUTES),
    "sluice_allocation_version": _gauge("", ("experiment",), "Version of the allocation in use", *_ROUTES),
    "sluice_allocation_age_seconds": _gauge(
        "seconds", ("experiment",), "Since this process took up the allocation in use", *_ROUTES
    ),
}  # fmt: skip
_SERVING = {
    "sluice_assignment_batch_seconds": _counted(
        "histogram", "seconds", (), "One batch of assignments: drawing, Redis, exposure log", "router", buckets=_SECONDS
    ),
    "sluice_ranking_seconds": _counted(
        "histogram", "seconds", _VARIANT, "One ranking: waiting, features, scores, the fallback where one was needed",
        "router", buckets=_SECONDS,
    ),
    "sluice_ranking_batch_seconds": _counted(
        "histogram", "seconds", (), "One batch of rankings by models: features and scores", "router", buckets=_SECONDS
    ),
    "sluice_ranking_scores": _counted(
        "histogram", "probability", _VARIANT, "Scores that models gave to the items answered", "router", buckets=_SCORES
    ),
    "sluice_ranking_fallbacks_total": _counted(
        "counter", "rankings", _VARIANT, "Rankings by the variant's fallback: its ranker failed", "router"
    ),
    "sluice_shadow_requests_total": _counted(
        "counter", "requests", ("experiment", "shadow", "outcome"),
        "Of a shadow: `compared`, failed (`raised`, `unusable`, `away`, `timeout`, `crash`), or `dropped` unasked",
        "router",
    ),
    "sluice_events_total": _counted(
        "counter", "events", ("topic", "outcome"),
        "Events: `accepted`; of `any` topic `rejected` (the event is at fault) or `refused` (nowhere to put it)",
        "router",
    ),
    "sluice_waiting": _gauge("items", ("queue",), "Of `assign`, `rank`, `shadow` and `kafka` (records)", "router"),
    "sluice_spool_bytes": _gauge("bytes", (), "On disk until Kafka is back", "router"),
    "sluice_spool_limit_bytes": _gauge("bytes", (), "As much may be on disk (`--spool-mb`)", "router"),
    "sluice_records_lost_total": _total(
        "records", (), "Of the exposure log: neither Kafka nor the disk could take them", "router"
    ),
    "sluice_model_version": _gauge(
        "", ("model", "version"), "1 for the version of each model that serves now", "router"
    ),
    "sluice_models_unserved": _gauge("models", (), "Models that cannot be served for now: fallbacks rank", "router"),
}  # fmt: skip
_READING = {
    "sluice_consumer_lag_records": _gauge(
        "records", ("group", "topic", "partition"),
        "Records of the log that are not yet worked off; `group` is `processors`, `shadow`, `features` or `resolver`",
        "process", "features", "resolve",
    ),
    "sluice_dead_letters_total": _counted(
        "counter", "records", ("topic", "reason"),
        "Records that this process sent to topic `dead-letters`, by the topic they came from", "process", "resolve",
        "analyze",
    ),
}  # fmt: skip
_COUNTING = {
    "sluice_counting_records_total": _total("records", (), "Records that this process has counted", "process"),
    "sluice_records_total": _total(
        "records", ("topic", "partition", "outcome"),
        "Records of the owned partitions by what became of them, since the counts began: `counted`, `late`, "
        "`duplicate`, `unmatched`, `malformed`, `heartbeat`", "process",
    ),
    "sluice_partitions_owned": _gauge("partitions", (), "Partitions that this process counts", "process"),
    "sluice_partitions_rebuilt_total": _total(
        "partitions", (), "Partitions whose open window was read again from the log", "process"
    ),
    "sluice_commits_total": _total("commits", (), "Commits of a partition to Redis", "process"),
    "sluice_commits_fenced_total": _total(
        "commits", (), "Refused: somebody else had counted the partition meanwhile", "process"
    ),
    "sluice_commit_seconds": _counted(
        "histogram", "seconds", (), "One commit: sums, dead letters, Redis", "process", buckets=_SECONDS
    ),
    "sluice_watermark_timestamp_seconds": _gauge(
        "seconds", ("topic", "partition"), "Largest event time read, since 1970", "process"
    ),
    "sluice_open_impressions": _gauge(
        "impressions", ("partition",), "Held in memory: clicks may still follow them", "process"
    ),
    "sluice_waiting_clicks": _gauge(
        "clicks", ("partition",), "Held in memory: their impression may still come", "process"
    ),
    "sluice_held_limit": _gauge(
        "records", (), "Open impressions and waiting clicks from which on only the topic behind is read", "process"
    ),
    "sluice_reading_paused": _gauge(
        "", ("topic", "partition"), "1 for a topic that is not read because memory is full", "process"
    ),
}  # fmt: skip
_LEARNING = {
    "sluice_features_slates_total": _total("slates", (), "Slates learned, since the states were begun", "features"),
    "sluice_features_open_slates": _gauge("slates", (), "Held in memory: they have not ended yet", "features"),
    "sluice_features_progress_timestamp_seconds": _gauge(
        "seconds", (), "When the keeper last committed, since 1970", "features"
    ),
    "sluice_features_applied_timestamp_seconds": _gauge(
        "seconds", (), "Event time of the last slate that the states know, since 1970", "features"
    ),
}
_RESOLVING = {
    "sluice_resolved_total": _counted(
        "counter", "records", ("outcome",), "Raw impressions: `resolved`, `unassigned`, `malformed`",
        "resolve",
    ),
}  # fmt: skip
_ANALYZING = {
    "sluice_units_total": _total("units", _VARIANT, "Units that are evidence, exactly as counted", "analyze"),
    "sluice_impressions_total": _total(
        "impressions", _VARIANT, "Impressions that are evidence, exactly as counted", "analyze"
    ),
    "sluice_outcomes_total": _total(
        "outcomes", (*_VARIANT, "outcome"), "Impressions with this outcome (`click`, `error`, …), exactly as counted",
        "analyze",
    ),
    "sluice_decisions_total": _counted("counter", "decisions", ("experiment",), "Decisions of this process", "analyze"),
    "sluice_decision_seconds": _counted(
        "histogram", "seconds", (), "Computing the decisions that were due at once", "analyze", buckets=_SECONDS
    ),
    "sluice_decision_version": _gauge("", ("experiment",), "Version of the last decision, anybody's", "analyze"),
    "sluice_decision_age_seconds": _gauge("seconds", ("experiment",), "Since the last decision", "analyze"),
    "sluice_decision_pending_seconds": _gauge(
        "seconds", ("experiment",), "Since there is evidence that no decision includes; 0 when there is none", "analyze"
    ),
    "sluice_verdict": _gauge(
        "", ("experiment", "verdict"), "1 for the verdict of the last decision, 0 for all others", "analyze"
    ),
    "sluice_sample_ratio_p": _gauge(
        "probability", ("experiment",), "Always-valid p-value of the units seen against what was promised", "analyze"
    ),
    "sluice_sample_ratio_limit": _gauge("probability", (), "Below it the evidence is `invalid`", "analyze"),
    "sluice_variant_rate": _gauge(
        "ratio", _VARIANT, "Estimate of the primary metric, each unit weighed with 1 / propensity",
        "analyze",
    ),
    "sluice_variant_rate_bound": _gauge(
        "ratio", (*_VARIANT, "bound"), "Ends, `lower` and `upper`, of its 95 % confidence sequence", "analyze"
    ),
    "sluice_variant_p_best": _gauge("probability", _VARIANT, "Probability that the variant is best", "analyze"),
    "sluice_variant_expected_loss": _gauge(
        "ratio", _VARIANT, "Expected regret, in the unit of the metric, of choosing the variant for good", "analyze"
    ),
    "sluice_decided_allocation_version": _gauge(
        "", ("experiment",), "Version of the allocation of the last decision: what routers are to use", "analyze"
    ),
    "sluice_decided_share": _gauge("ratio", _VARIANT, "Share of new units that the last decision gave", "analyze"),
    "sluice_guardrail_status": _gauge(
        "", (*_VARIANT, "outcome", "status"), "1 for the status of each guardrail: `passed`, `breached`, `open`",
        "analyze",
    ),
    "sluice_canary_step": _gauge("", ("experiment", "state"), "Step at which a canary stands, from 1", "analyze"),
    "sluice_analyzer_standby": _gauge("", ("experiment",), "1 while another analyzer decides on it", "analyze"),
}  # fmt: skip
_REPLAYING = {
    "sluice_replay_slates_total": _total("slates", (), "Slates sent, this run", "replay"),
    "sluice_replay_slates_left": _gauge("slates", (), "Slates not sent yet", "replay"),
    "sluice_replay_records_total": _total("records", ("topic",), "Records handed to Kafka, this run", "replay"),
    "sluice_replay_event_timestamp_seconds": _gauge("seconds", (), "Event time reached, since 1970", "replay"),
}
_SHOWING = {
    "sluice_dashboard_viewers": _gauge("streams", (), "Pages that are being pushed to", "dashboard"),
    "sluice_dashboard_dropped_total": _total(
        "events", (), "Events that viewers were too slow for; newer ones replaced them", "dashboard"
    ),
}
# part: `variant=…`, a segment, or both; empty for all that the version shows.
_WATCHED = ("model", "version", "part")
_DRIFTING = {
    "sluice_drift_drifted": _gauge(
        "", _WATCHED, "1 while a feature or the scores of this model version have drifted", "drift"
    ),
    "sluice_drift_settling": _gauge(
        "", _WATCHED, "1 while it still learns what is normal, from what this version itself shows", "drift"
    ),
    "sluice_drift_effect": _gauge(
        "", (*_WATCHED, "feature"), "Effect size of the drift of a feature, or of the `score`", "drift"
    ),
    "sluice_drift_checked_timestamp_seconds": _gauge(
        "seconds", _WATCHED, "When this model version was last looked at, since 1970", "drift"
    ),
}
_RELEASING = {
    "sluice_lifecycle_version": _gauge(
        "", (*_LIFE, "version"), "1 for the version that is in force, as topic `lifecycle` says", "lifecycle"
    ),
    "sluice_lifecycle_leads": _gauge(
        "", _LIFE, "1 for the process that leads, 0 for those that stand by", "lifecycle"
    ),
    "sluice_lifecycle_stage": _gauge(
        "", (*_LIFE, "stage"),
        "1 for the stage of the attempt under way: `requested`, `trained`, `gated`, `shadow`, `judged`, `canary`; "
        "`ended` while there is none", "lifecycle",
    ),
    "sluice_lifecycle_canary_share": _gauge(
        "ratio", _LIFE, "Share of the traffic that the canary of the attempt under way has reached", "lifecycle"
    ),
    "sluice_lifecycle_attempts_total": _total(
        "attempts", (*_LIFE, "outcome"),
        "Attempts that have ended, since the topic began: `promoted`, `gate-refused`, `shadow-judged` (and refused), "
        "`rolled-back`, `abandoned`, `aborted`; each is there from the start, with 0", "lifecycle",
    ),
    "sluice_lifecycle_reversals_total": _total(
        "promotions", _LIFE, "Promotions that were taken back, since the topic began", "lifecycle"
    ),
    "sluice_lifecycle_waits_for_approval": _gauge(
        "", _LIFE, "1 while the next step waits for `sluice lifecycle approve`", "lifecycle"
    ),
    "sluice_lifecycle_paused": _gauge("", _LIFE, "1 while no step is taken, by somebody's wish", "lifecycle"),
    "sluice_lifecycle_failures_total": _counted(
        "counter", "steps", _LIFE, "Steps that failed and are due again: something was away", "lifecycle"
    ),
}  # fmt: skip

_GROUPS = {
    "Every service": _OF_ALL,
    "HTTP": _HTTP,
    "Experiments": _EXPERIMENTS,
    "Assignments and allocations": _ROUTING,
    "The router": _SERVING,
    "Readers of topics": _READING,
    "Counting": _COUNTING,
    "Features": _LEARNING,
    "Resolver": _RESOLVING,
    "Decisions": _ANALYZING,
    "Replay": _REPLAYING,
    "Dashboard": _SHOWING,
    "Drift": _DRIFTING,
    "Lives of models": _RELEASING,
}

METRICS: dict[str, Described] = {name: told for group in _GROUPS.values() for name, told in group.items()}

_ABOUT = """<!-- Written by `python -m sluice.adapters.telemetry`; edit the table there. -->
# Metrics

Every service serves its metrics in Prometheus' text format: at `/metrics`, with `/health` (200 while the process lives)
and `/ready` (200 while it does its work, else 503) beside them.

| service | command |
|---|---|
{services}

- `--metrics-port N` serves them on 127.0.0.1 (0 takes a free port, which the log tells); `SLUICE_METRICS=host:port` at
  any address, for containers. By default there is none. One process an address: two on one host need two ports.
- `sluice route` and `sluice dashboard` have them on their own HTTP port as well, behind the token where there is one.
- They hold names of experiments, variants and models, and no more of what anybody did. No token guards them: let
  nobody but Prometheus reach the address.
- Values that a service keeps anyway are read when somebody asks, on the thread of whoever asks.
- `…_timestamp_seconds` are seconds since 1970. Those of *event time* lie in the past when a log is replayed.
- Totals of `sluice_records_total` belong to the partitions and move with them to another process; sum over processes.
- What the analyzer tells of the counts is exact, over all partitions; two analyzers tell the same, so take the `max`.
- `process_cpu_seconds_total`, `process_resident_memory_bytes` and so on are there too, from prometheus-client (Linux).
"""
_HEAD = "| name | kind | unit | labels | meaning | services |\n|---|---|---|---|---|---|"


def page() -> str:
    """The page docs/metrics.md."""
    services = "\n".join(f"| `{name}` | {command} |" for name, command in SERVICES.items())
    parts = [_ABOUT.format(services=services)]
    for title, group in _GROUPS.items():
        rows = "\n".join(_row(name, told) for name, told in group.items())
        parts.append(f"## {title}\n\n{_HEAD}\n{rows}\n")
    return "\n".join(parts)


def _row(name: str, told: Described) -> str:
    labels = ", ".join(f"`{label}`" for label in told.labels) or "–"
    services = "all" if told.services == _ALL else ", ".join(told.services)
    return f"| `{name}` | {told.kind} | {told.unit or '–'} | {labels} | {told.meaning} | {services} |"


if __name__ == "__main__":
    sys.stdout.write(page())
