"""Names that every process must agree on: topics, their settings, and Redis keys."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ASSIGNMENTS", "CLICKS", "DEAD_LETTERS", "DECISIONS", "EXPERIMENTS", "IMPRESSIONS", "LIFECYCLE"]
__all__ += ["MAX_LETTER_BYTES", "RANKINGS", "RAW_IMPRESSIONS", "SHADOW", "TOPICS", "VARIANT_STATS", "Keys", "Topic"]

IMPRESSIONS = "impressions"
RAW_IMPRESSIONS = "raw-impressions"
CLICKS = "clicks"
ASSIGNMENTS = "assignments"
VARIANT_STATS = "variant-stats"
DECISIONS = "decisions"
EXPERIMENTS = "experiments"
LIFECYCLE = "lifecycle"
DEAD_LETTERS = "dead-letters"
SHADOW = "shadow"
RANKINGS = "rankings"


@dataclass(frozen=True)
class Topic:
    """A topic and what the broker must be told about it. `keyed_by_user` topics share one partition count."""

    name: str
    keyed_by_user: bool
    config: dict[str, str] = field(default_factory=dict)


MAX_LETTER_BYTES = 4 * 1024 * 1024
"""A record on `dead-letters`: the largest one that a broker takes by default, key and value in Base64. As much for a
snapshot or a decision, which grow with what they describe: about 12,000 cells."""

# Replayed events are decades old: retention must go by the broker's clock, not by the event's.
_LARGE = {"max.message.bytes": str(MAX_LETTER_BYTES)}
_BY_TIME = {"message.timestamp.type": "LogAppendTime", "retention.ms": str(7 * 24 * 3600 * 1000)}
_KEEP_ALL = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1", "retention.bytes": "-1"}
_COMPACT = {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "compact"}

TOPICS: tuple[Topic, ...] = (
    Topic(IMPRESSIONS, True, _BY_TIME),
    Topic(RAW_IMPRESSIONS, True, _BY_TIME),
    Topic(CLICKS, True, _BY_TIME),
    Topic(ASSIGNMENTS, True, _BY_TIME),
    Topic(SHADOW, True, _BY_TIME),
    Topic(RANKINGS, True, _BY_TIME),
    Topic(VARIANT_STATS, False, {**_COMPACT, **_LARGE}),
    Topic(DECISIONS, False, {**_KEEP_ALL, **_LARGE}),
    Topic(EXPERIMENTS, False, _COMPACT),
    Topic(LIFECYCLE, False, _KEEP_ALL),
    Topic(DEAD_LETTERS, False, {**_BY_TIME, **_LARGE}),
)


@dataclass(frozen=True)
class Keys:
    """Redis keys under one prefix. What is updated together shares the hash tag {partition}, for Redis Cluster."""

    prefix: str = "sluice:"

    def assignment(self, experiment: str, unit: str) -> str:
        return f"{self.prefix}assign:{experiment}:{unit}"

    def allocation(self, experiment: str) -> str:
        return f"{self.prefix}alloc:{experiment}"

    def counts(self, partition: int) -> str:
        return f"{self.prefix}counts:{{{partition}}}"

    def units(self, partition: int) -> str:
        return f"{self.prefix}units:{{{partition}}}"

    def buckets(self, partition: int) -> str:
        return f"{self.prefix}buckets:{{{partition}}}"

    def shadow(self, partition: int) -> str:
        return f"{self.prefix}shadow:{{{partition}}}"

    def feature_user(self, user: str) -> str:
        return f"{self.prefix}features:user:{user}"

    def feature_item(self, item: str) -> str:
        return f"{self.prefix}features:item:{item}"

    @property
    def feature_catalogue(self) -> str:
        return f"{self.prefix}features:catalogue"

    @property
    def feature_keeper(self) -> str:
        return f"{self.prefix}features:keeper"

    @property
    def drift(self) -> str:
        return f"{self.prefix}drift"

    def replay(self, name: str) -> str:
        return f"{self.prefix}replay:{name}"

    def lifecycle(self, model: str, alias: str) -> str:
        return f"{self.prefix}lifecycle:{model}@{alias}"

    def life_told(self, model: str, alias: str) -> str:
        return f"{self.prefix}lifecycle:{model}@{alias}:told"

    def truth(self, experiment: str) -> str:
        return f"{self.prefix}truth:{experiment}"
