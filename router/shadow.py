"""Shadows off the path of requests: a bounded queue and a thread for each, and its model in a process of its own.

A model that hangs cannot be stopped in a thread, and one that crashes takes its process with it; so it has one. What it
does not answer in time ends that process, and the next one starts after a pause that doubles. While there is none, and
while the queue is full, requests are dropped and counted. Library: multiprocessing (spawn).
"""

from __future__ import annotations

import logging
import multiprocessing
import select
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import NamedTuple

import msgspec

from router.scoring import Job, Scored
from router.shadow_worker import Question, Reply, record_of, run
from router.spool import Record
from sluice.adapters.metrics import Metrics
from sluice.domain.events import encode
from sluice.domain.experiment import Experiment
from sluice.domain.shadow import Failure
from sluice.names import SHADOW
from sluice.settings import Settings

__all__ = ["Shadows", "Work"]

log = logging.getLogger(__name__)

LIMIT_S = 1.0
"""For one request; also how long it may wait in the queue: features of another moment compare nothing"""
LINGER_S = 0.01
"""Until a request is answered that came alone: its answer and this thread would wait for one another"""
START_LIMIT_S = 60.0
WAITING = 256
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0

Work = Callable[[Connection, Settings, str], None]
"""What the process runs: `shadow_worker.run`"""
Post = Callable[[list[Record]], bool]
"""Records on their way; False when they were not taken"""


class _Waiting(NamedTuple):
    question: Question
    until_s: float


class Shadows:
    """The shadows of all experiments. `ask` is for the event loop, and waits for nothing."""

    def __init__(self, settings: Settings, metrics: Metrics, post: Post, work: Work = run) -> None:
        self._settings = settings
        self._metrics = metrics
        self._post = post
        self._work = work
        self._shadows: dict[tuple[str, str, str], _Shadow] = {}
        self._of: dict[str, list[_Shadow]] = {}

    def __len__(self) -> int:
        """Requests that wait"""
        return sum(shadow.waiting.qsize() for shadow in list(self._shadows.values()))

    def follow(self, experiments: Iterable[Experiment]) -> None:
        """Ask the shadows of these from now on; the others end."""
        wanted = {(e.name, shadow.name, shadow.ranker) for e in experiments for shadow in e.shadow}
        gone = [self._shadows[key] for key in self._shadows.keys() - wanted]
        self._shadows = {
            key: self._shadows.get(key) or _Shadow(key, self._settings, self._metrics, self._post, self._work)
            for key in sorted(wanted)
        }
        of: dict[str, list[_Shadow]] = {}
        for (experiment, _, _), shadow in self._shadows.items():
            of.setdefault(experiment, []).append(shadow)
        self._of = of
        for shadow in gone:
            shadow.end()

    def ask(self, job: Job, scored: Scored, top: int, took_s: float) -> None:
        """Let the shadows of the job's experiment score it too, some time."""
        for shadow in self._of.get(job.experiment, ()):
            shadow.ask(job, scored, top, took_s)

    def close(self) -> None:
        """End all processes; what waits is given up."""
        shadows = list(self._shadows.values())
        self.follow(())
        for shadow in shadows:
            shadow.join()


class _Shadow:
    def __init__(self, key: tuple[str, str, str], settings: Settings, metrics: Metrics, post: Post, work: Work) -> None:
        self._experiment, self._name, self._uri = key
        self._settings = settings
        self._metrics = metrics
        self._post = post
        self._work = work
        self._version = ""
        self._dropped = 0
        self._lock = Lock()
        self._pause_s = FIRST_PAUSE_S
        self._closing = Event()
        self.waiting: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"shadow-{self._name}", daemon=True)
        self._thread.start()

    def ask(self, job: Job, scored: Scored, top: int, took_s: float) -> None:
        if self.waiting.qsize() >= WAITING:
            self._drop()
            return
        question = Question(
            experiment=job.experiment, variant=job.variant, version=scored.version, shadow=self._name,
            user_id=job.user_id, slate_id=job.slate_id, at_ms=job.at_ms, items=job.items, top=top,
            served=None if scored.failed else scored.scores, served_us=round(1e6 * took_s),
        )  # fmt: skip
        self.waiting.put(_Waiting(question, time.monotonic() + LIMIT_S))

    def end(self) -> None:
        self._closing.set()
        self.waiting.put(None)

    def join(self) -> None:
        self._thread.join(10)

    def _run(self) -> None:
        while not self._closing.is_set():
            with _Process(self._work, self._settings, self._uri) as process:
                why = self._use(process)
            if self._closing.is_set():
                return
            log.warning("shadow %s of %s: %s; trying again in %g s", self._name, self._experiment, why, self._pause_s)
            self._closing.wait(self._pause_s)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _use(self, process: _Process) -> str:
        """Ask the process until it fails, or all ends. Returns why."""
        ready = process.reply(START_LIMIT_S, self._closing)
        if not isinstance(ready, Reply):
            return f"{self._uri} did not start"
        self._version = ready.version
        while (waiting := self.waiting.get()) is not None and not self._closing.is_set():
            if self.waiting.empty():
                self._closing.wait(LINGER_S)
            if time.monotonic() > waiting.until_s:
                self._drop()
                continue
            question = msgspec.structs.replace(waiting.question, dropped=self._dropped)
            reply = process.ask(question, self._closing)
            if isinstance(reply, Reply):
                self._version = reply.version
                self._pause_s = FIRST_PAUSE_S
                self._tell(question, reply.record, reply.error or "compared")
            elif not self._closing.is_set():
                self._tell(question, encode(record_of(question, self._version, reply)), reply)
                return "it took longer than a second" if reply == "timeout" else "its process ended"
        return "closed"

    def _tell(self, question: Question, record: bytes, outcome: str) -> None:
        self._count(outcome)
        if not self._post([Record(SHADOW, question.user_id, record)]):
            self._drop()
            return
        with self._lock:
            self._dropped -= question.dropped

    def _drop(self) -> None:
        with self._lock:
            self._dropped += 1
        self._count("dropped")

    def _count(self, outcome: str) -> None:
        self._metrics.count("sluice_shadow_requests_total", self._experiment, self._name, outcome)


class _Process:
    """A process that answers. Use it with `with`: it is killed at the end."""

    def __init__(self, work: Work, settings: Settings, uri: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, settings, uri), name="sluice-shadow", daemon=True)
        self._process.start()
        self._poll = select.poll()  # the pipe's own makes a new one each time
        self._poll.register(self._pipe.fileno(), select.POLLIN)
        theirs.close()  # so that its end of the pipe closes with it

    def ask(self, question: Question, closing: Event) -> Reply | Failure:
        """Its reply, `timeout` or `crash`."""
        try:
            self._pipe.send_bytes(msgspec.msgpack.encode(question))
        except OSError:
            return "crash"
        return self.reply(LIMIT_S, closing)

    def reply(self, limit_s: float, closing: Event) -> Reply | Failure:
        until_s = time.monotonic() + limit_s
        try:
            while not self._poll.poll(1000 * min(0.2, max(0.0, until_s - time.monotonic()))):
                if time.monotonic() >= until_s or closing.is_set():
                    return "timeout"
            return msgspec.msgpack.decode(self._pipe.recv_bytes(), type=Reply)
        except (EOFError, OSError, msgspec.DecodeError):
            return "crash"

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join(5)
        self._pipe.close()
