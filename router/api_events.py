"""`POST /events`: what was shown and what followed, to Kafka or to the disk before it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec
from fastapi import APIRouter, Request, Response

from router.api_document import answers, takes
from router.api_problems import ApiProblem, answered, decoded, decoded_json
from router.courier import Outcome
from router.serving import Service
from router.spool import Record
from sluice.domain.api import Event, EventsAnswer, EventsBody, FieldProblem, RejectedEvent
from sluice.domain.events import MAX_EVENT_BYTES, Assignment, ImpressionShown, OutcomeObserved, encode
from sluice.errors import TransportError
from sluice.names import CLICKS, IMPRESSIONS

__all__ = ["deliver", "routes"]

_EXAMPLE = EventsBody(
    events=tuple(
        msgspec.Raw(encode(event))
        for event in (
            ImpressionShown(
                impression_id="9f86d081-0", user_id="429", item_id="318", at_ms=1_700_000_000_000,
                assignments=(Assignment("demo", "b", "a=50,b=50", "429", 0.5),), slate_id="9f86d081",
            ),
            OutcomeObserved(click_id="c1", impression_id="9f86d081-0", user_id="429", at_ms=1_700_000_004_000),
        )
    )
)  # fmt: skip
_TAKEN = EventsAnswer(accepted=1, rejected=(RejectedEvent(index=1, detail="Expected `int` >= 0 - at `$.at_ms`"),))
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def routes(service: Service) -> APIRouter:
    """The route on `service`."""
    api = APIRouter(tags=["traffic"])
    body_decoder = msgspec.json.Decoder(EventsBody)

    @api.post(
        "/events", status_code=202, summary="Hand in impressions and outcomes",
        responses=answers(EventsAnswer, 422, 503, status=202, example=_TAKEN),
        openapi_extra=takes(EventsBody, _EXAMPLE),
    )  # fmt: skip
    async def events(request: Request) -> Response:
        """202 once every accepted event is safe: acknowledged by all of Kafka's replicas, or on this service's disk.

        Each event is checked by itself; those that were not taken are named, and sending them again will not help.
        After a 503 send all of them again: what was taken twice is counted once, by its id.
        """
        body = await decoded(request, body_decoder)
        records: list[Record] = []
        times: list[int] = []
        places: list[int] = []
        rejected: list[RejectedEvent] = []
        for index, raw in enumerate(body.events):
            try:
                record, at_ms = _record(raw)
                records.append(record)
                times.append(at_ms)
                places.append(index)
            except (ValueError, RecursionError) as error:
                rejected.append(RejectedEvent(index=index, detail=str(error)))
        refused = await deliver(service, records, times)
        for place, record in enumerate(records):
            if place not in refused:
                service.metrics.count("sluice_events_total", record.topic, "accepted")
        rejected += [RejectedEvent(index=places[place], detail=reason) for place, reason in refused.items()]
        service.metrics.count("sluice_events_total", "any", "rejected", by=len(rejected))
        if len(rejected) == len(body.events):
            problem = ApiProblem(422, "none of the events was taken", kind="invalid-events")
            errors = tuple(FieldProblem(field=f"events[{one.index}]", detail=one.detail) for one in rejected[:100])
            problem.problem = msgspec.structs.replace(problem.problem, errors=errors)
            raise problem
        rejected.sort(key=lambda one: one.index)
        return answered(EventsAnswer(accepted=len(body.events) - len(rejected), rejected=tuple(rejected)), 202)

    return api


async def deliver(service: Service, records: Sequence[Record], times: Iterable[int]) -> dict[int, str]:
    """Return once `records` are safe: index → reason of those that the broker will never take.

    times: their event times. Raises TransportError when one of them could be put neither on the broker nor on the disk.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[Outcome]] = loop.create_future()

    def done(outcomes: list[Outcome]) -> None:
        def tell() -> None:
            if not future.done():
                future.set_result(outcomes)

        loop.call_soon_threadsafe(tell)

    service.courier.send(records, done)
    outcomes = await future
    for outcome in outcomes:
        if isinstance(outcome, TransportError):
            service.metrics.count("sluice_events_total", "any", "refused", by=len(records))
            raise TransportError(
                f"neither Kafka nor the disk could take all of {len(records)} records; send them again"
            )
    service.heartbeats.saw(times)
    return {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, str)}


def _record(raw: msgspec.Raw) -> tuple[Record, int]:
    """The record of an event, and its time. Raises ValueError with the reason when it is no event."""
    if len(raw) > MAX_EVENT_BYTES:
        raise ValueError(f"{len(raw)} bytes exceed the limit of {MAX_EVENT_BYTES}")
    event = decoded_json(_decoder, raw)
    topic = IMPRESSIONS if isinstance(event, ImpressionShown) else CLICKS
    return Record(topic, event.user_id, encode(event)), event.at_ms
