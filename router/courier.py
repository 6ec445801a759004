"""Records to Kafka, or to the spool while Kafka is away. Library: confluent-kafka, by the adapter.

While the broker answers, records wait in the producer's bounded queue and are safe once it acknowledged them. When it
does not, they go to the spool, and what comes after them follows there until the spool has been sent, so that the order
of records is kept. A record may be on the topic twice after a failure; events are counted once by their ids.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from router.spool import Record, Spool
from sluice.adapters.kafka import KafkaError, KafkaException, Message, Producer, producer
from sluice.adapters.logs import Seldom
from sluice.errors import TransportError
from sluice.settings import Settings

__all__ = ["Courier", "Done", "Outcome"]

log = logging.getLogger(__name__)

GIVE_UP_MS = 1500
"""A record that the broker has not taken by then goes to the spool"""
RETRY_S = 0.25
UNREADABLE_S = 5.0
BURST_S = 0.01
MAX_WAITING = 100_000
"""Records on their way to the spool"""

_REFUSED = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD)

Outcome = str | TransportError | None
"""Of one record: None when it is safe, the reason when the broker will never take it, the error when neither broker nor
disk could take it."""
Done = Callable[[list[Outcome]], None]


class _Parcel:
    """Records that are answered for together."""

    def __init__(self, records: Sequence[Record], done: Done | None) -> None:
        self.records = records
        self.outcomes: list[Outcome] = [None] * len(records)
        self.open = len(records)
        self.to_disk: list[int] = []
        self.done = done

    def finish(self) -> None:
        if self.done is not None:
            self.done(self.outcomes)


class Courier:
    """Sends records from any thread, without waiting. Close it, or what is on its way may be lost."""

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self._seldom = Seldom()
        self._spool = spool
        self._settings = settings
        self._producer = self._new_producer()
        self._lock = threading.RLock()
        # What an earlier process could not send goes first.
        self._direct = spool.empty
        self._waiting = 0
        self._posted: list[Record] = []
        self._for_disk: SimpleQueue[_Parcel | None] = SimpleQueue()
        self.lost = 0
        self._refused = 0
        """Records that nobody waited for and that neither broker nor disk could take"""
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._threads = [
            threading.Thread(target=run, name=f"courier-{name}", daemon=True)
            for name, run in (("acks", self._serve), ("disk", self._write), ("replay", self._replay))
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()
        if not self._direct:
            self._wake.set()

    @property
    def spooling(self) -> bool:
        """True while records go to the disk, or wait there for their turn"""
        return not self._direct

    @property
    def queued(self) -> int:
        """Records in memory: with the producer or on their way to the disk"""
        return len(self._posted) + len(self._producer) + self._waiting

    def send(self, records: Sequence[Record], done: Done | None = None) -> None:
        """Send `records`; `done` gets their outcomes, from another thread, once every one is known."""
        if not records:
            if done is not None:
                done([])
            return
        parcel = _Parcel(records, done)
        with self._lock:  # a producer that was replaced must get nothing any more: nobody would serve its reports
            if not self._direct:
                self._to_disk(parcel, range(len(records)))
                return
            for index, record in enumerate(records):
                self._produce(parcel, index, record)

    def post(self, records: Sequence[Record]) -> None:
        """Send `records` some milliseconds later, in one go with others; nobody is told what became of them."""
        with self._lock:
            if len(self._posted) < MAX_WAITING:
                self._posted += records
            else:
                self.lost += len(records)

    def close(self, timeout_s: float = 5.0) -> None:
        """Return once everything is on the broker or on the disk."""
        self._stop.set()
        self._wake.set()
        self._threads[2].join(timeout_s)
        self._producer.flush(timeout_s)
        self._threads[0].join(timeout_s)
        self._for_disk.put(None)
        self._threads[1].join(timeout_s)
        self._spool.close()

    def _produce(self, parcel: _Parcel, index: int, record: Record) -> None:
        try:
            self._producer.produce(
                record.topic, record.value, record.key, on_delivery=partial(self._delivered, parcel, index)
            )
        except BufferError:
            self._settle(parcel, index, None, to_disk=True)
        except KafkaException as error:
            self._delivered(parcel, index, error.args[0], None)

    def _delivered(self, parcel: _Parcel, index: int, error: KafkaError | None, _: Message | None) -> None:
        if error is None:
            self._settle(parcel, index, None)
        elif error.code() in _REFUSED:
            self._settle(parcel, index, error.str())
        else:
            self._away(error.str())
            self._settle(parcel, index, None, to_disk=True)

    def _settle(self, parcel: _Parcel, index: int, outcome: Outcome, *, to_disk: bool = False) -> None:
        with self._lock:
            parcel.outcomes[index] = outcome
            if to_disk:
                parcel.to_disk.append(index)
            parcel.open -= 1
            if parcel.open:
                return
            if parcel.to_disk:
                self._to_disk(parcel, parcel.to_disk)
                return
        parcel.finish()

    def _to_disk(self, parcel: _Parcel, indices: Sequence[int]) -> None:
        parcel.to_disk = list(indices)
        self._waiting += len(parcel.to_disk)
        self._direct = False
        self._for_disk.put(parcel)

    def _away(self, reason: str) -> None:
        with self._lock:
            if self._direct:
                log.warning("Kafka: %s; records go to the spool", reason)
                self._direct = False
        self._wake.set()

    def _serve(self) -> None:
        """Delivery reports are served here, so that none waits for the next record to be sent; and what was posted.

        Every record that meets an empty queue wakes the client's own thread: in bursts they cost a tenth.
        """
        while not self._stop.is_set() or self._posted or len(self._producer):
            try:
                self._producer.poll(BURST_S)
            except KafkaException as error:  # fatal: this producer is of no use any more
                self._away(error.args[0].str())
                self._stop.wait(BURST_S)
            with self._lock:
                posted, self._posted = self._posted, []
            self.send(posted)

    def _write(self) -> None:
        ended = False
        while not ended:
            parcels: list[_Parcel] = []
            found = self._for_disk.get()
            while True:
                if found is None:
                    ended = True
                else:
                    parcels.append(found)
                try:
                    found = self._for_disk.get_nowait()
                except Empty:
                    break
            if parcels:
                self._append(parcels)

    def _append(self, parcels: Sequence[_Parcel]) -> None:
        records = [parcel.records[index] for parcel in parcels for index in parcel.to_disk]
        failure: TransportError | None = None
        try:
            if self._waiting > MAX_WAITING:
                raise TransportError(f"{self._waiting} records wait for the disk")
            self._spool.append(records)
        except TransportError as error:
            failure = error
            if not self._refused:
                log.error("%s; Kafka is away as well: records are not taken", error)
            self._refused += len(records)
        else:
            if self._refused:
                log.warning("the disk takes records again; %d were not taken", self._refused)
                self._refused = 0
        with self._lock:
            self._waiting -= len(records)
        self._wake.set()
        for parcel in parcels:
            for index in parcel.to_disk:
                parcel.outcomes[index] = failure
            if failure is not None and parcel.done is None:
                self.lost += len(parcel.to_disk)
            parcel.finish()

    def _replay(self) -> None:
        """Send the spool, oldest first, and then let records go to the broker directly again."""
        with contextlib.suppress(KafkaException):  # connect now: the first record would wait half a second for it
            self._producer.list_topics(timeout=GIVE_UP_MS / 1000)
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            if not self._direct:
                self._renew()
            while not self._stop.is_set() and not self._direct:
                try:
                    found = self._spool.oldest()
                except TransportError as error:
                    log.error("%s; what came later waits for it", error)
                    self._stop.wait(UNREADABLE_S)
                    continue
                if found is None:
                    with self._lock:
                        # Under the lock nothing can join the queue to the disk.
                        if self._spool.empty and not self._waiting:
                            self._direct = True
                            log.warning("Kafka is back: records go to the broker again")
                    if not self._direct:
                        self._stop.wait(RETRY_S)
                    continue
                path, records = found
                # One first: a broker that is still away need not be offered all of them.
                if self._deliver(records[:1]) and self._deliver(records[1:]):
                    self._spool.drop(path)
                else:
                    self._stop.wait(RETRY_S)
                    self._renew()

    def _new_producer(self) -> Producer:
        return producer(
            self._settings,
            {
                "message.timeout.ms": GIVE_UP_MS,
                "queue.buffering.max.messages": 100_000,
                "queue.buffering.max.kbytes": 65_536,
            },
        )

    def _renew(self) -> None:
        """Take a new producer: after a failure the broker may refuse the old one's numbers for ever.

        What the old one still holds comes back as not delivered, and goes to the disk.
        """
        fresh = self._new_producer()
        with self._lock:
            old, self._producer = self._producer, fresh
        old.purge()
        try:
            old.flush(1.0)
        except KafkaException as error:
            log.debug("the old producer: %s", error)

    def _deliver(self, records: Sequence[Record]) -> bool:
        """Whether the broker took all of `records`, or refused them for what they are."""
        failures: list[Any] = []
        left = threading.Semaphore(0)

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None and error.code() in _REFUSED:
                if (more := self._seldom(error.code())) is not None:
                    log.error("spool: a record is refused by the broker and left out: %s%s", error.str(), more)
            elif error is not None:
                failures.append(error)
            left.release()

        for record in records:
            while True:
                try:
                    self._producer.produce(record.topic, record.value, record.key, on_delivery=delivered)
                    break
                except BufferError:
                    if self._stop.wait(0.05):
                        return False
                except KafkaException:
                    return False
        for _ in records:
            if not left.acquire(timeout=GIVE_UP_MS / 1000 + 5):
                return False
        return not failures
