"""The process in which a shadow scores: whatever its model does to it, the service goes on. Library: multiprocessing.

It is asked by messages on a pipe, one at a time: `Question` → `Reply`. The first reply, without a record, says that the
model is loaded. It ends when the pipe does.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import msgspec
from msgspec import Struct

from router.models import follow_models
from router.ranking import LiveRanking, RankRequest
from sluice.adapters.features import FeatureStore
from sluice.adapters.redis import connect
from sluice.domain.events import encode
from sluice.domain.shadow import Failure, ShadowCompared, compare
from sluice.errors import ModelUnusable, SluiceError, TransportError
from sluice.names import Keys
from sluice.settings import Settings

__all__ = ["Question", "Reply", "answer", "record_of", "run"]

log = logging.getLogger(__name__)

NICENESS = 19
"""What is served has the processor first"""


class Question(Struct, frozen=True, kw_only=True):
    """What a variant was asked, and what it said."""

    experiment: str
    variant: str
    version: str
    shadow: str
    user_id: str
    slate_id: str
    at_ms: int
    items: Sequence[str]
    top: int
    served: Sequence[float] | None
    """One score an item; null when the variant's own model had failed"""
    served_us: int
    dropped: int = 0


class Reply(Struct, frozen=True):
    version: str
    """Of the shadow's model"""
    record: bytes = b""
    """A `ShadowCompared` as it goes to the topic"""
    error: Failure = ""


Score = Callable[[Question], tuple[str, Sequence[float]]]
"""Scores of the question's items, with the version of the model"""


def run(pipe: Connection, settings: Settings, uri: str) -> None:
    """Answer with the model `uri` (`models:/…`) until the pipe ends, or say that it cannot be served."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the service ends it when it has answered
    os.nice(NICENESS)
    try:
        _serve(pipe, settings, uri)
    except SluiceError as error:
        log.error("shadow %s: %s", uri, error)


def _serve(pipe: Connection, settings: Settings, uri: str) -> None:
    with connect(settings, timeout_s=1.0) as client, follow_models(settings, {uri: uri}) as models:
        ranking = LiveRanking(FeatureStore(client, Keys(settings.prefix)))

        def score(question: Question) -> tuple[str, Sequence[float]]:
            served = models.in_force[uri]
            request = RankRequest(question.user_id, question.items, question.at_ms, served.model)
            return str(served.version.version), ranking.score([request])[0].tolist()

        answer(pipe, score, str(models.in_force[uri].version.version))


def answer(pipe: Connection, score: Score, version: str) -> None:
    """Say that all is ready, then answer until the pipe ends."""
    decode = msgspec.msgpack.Decoder(Question).decode
    pipe.send_bytes(msgspec.msgpack.encode(Reply(version)))
    while True:
        try:
            question = decode(pipe.recv_bytes())
        except EOFError:
            return
        reply = _answered(question, score, version)
        version = reply.version
        pipe.send_bytes(msgspec.msgpack.encode(reply))


def record_of(question: Question, version: str, error: Failure) -> ShadowCompared:
    """What is told of a question that was not answered."""
    return ShadowCompared(
        experiment=question.experiment, variant=question.variant, version=question.version, shadow=question.shadow,
        shadow_version=version, user_id=question.user_id, slate_id=question.slate_id, at_ms=question.at_ms,
        served_us=question.served_us, error=error, dropped=question.dropped,
    )  # fmt: skip


def _answered(question: Question, score: Score, version: str) -> Reply:
    begun = time.perf_counter()
    error: Failure = ""
    try:
        version, scores = score(question)
        took_us = round(1e6 * (time.perf_counter() - begun))
        agreement = None if question.served is None else compare(question.served, scores, question.top)
    except ModelUnusable:
        error = "unusable"
    except TransportError:
        error = "away"
    except Exception:  # noqa: BLE001 - whatever a model does is what a shadow is there to find out
        error = "raised"
    record = record_of(question, version, error)
    if not error:
        record = msgspec.structs.replace(record, shadow_us=took_us, agreement=agreement)
    return Reply(version, encode(record), error)
