"""A log whose beginning is gone, as retention leaves it."""

from __future__ import annotations

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from sluice.settings import Settings

__all__ = ["truncate"]


def truncate(settings: Settings, offsets: dict[str, dict[int, int]]) -> None:
    """Only Apache Kafka deletes records on request; Tansu keeps everything for as long as it lives."""
    admin = AdminClient({"bootstrap.servers": settings.kafka, "log_level": 2})
    places = [TopicPartition(topic, p, offset) for topic, of in offsets.items() for p, offset in of.items()]
    for future in admin.delete_records(places, request_timeout=60).values():
        future.result(60)
