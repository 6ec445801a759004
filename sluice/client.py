"""A small client of the router's HTTP API, blocking and for asyncio. Library: httpx.

with sluice.Client("http://127.0.0.1:8000") as client:
    answer = client.rank("429", ["318", "356", "296"], record=True)
    client.click("c1", answer.items[0].impression_id, "429")
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from sluice.domain.api import (
    AssignAnswer,
    AssignBody,
    Event,
    EventsAnswer,
    ExperimentAnswer,
    ExperimentsAnswer,
    FieldProblem,
    Problem,
    RankAnswer,
    RankBody,
    ReadyAnswer,
    UnitBody,
)
from sluice.domain.events import DecisionMade, OutcomeObserved
from sluice.errors import ConfigError, SluiceError, TransportError
from sluice.live import ExperimentCounts
from sluice.settings import Settings

__all__ = ["AsyncClient", "Client", "RequestRefused"]

T = TypeVar("T")
_JSON = {"Content-Type": "application/json"}


class RequestRefused(SluiceError):
    """The service says that the request is not right: sending it again will not help."""

    def __init__(self, problem: Problem) -> None:
        where = next((error.field for error in problem.errors if error.field), "")
        super().__init__(f"{problem.status} {problem.title}: {where and f'{where}: '}{problem.detail}")
        self.problem = problem

    @property
    def status(self) -> int:
        return self.problem.status

    @property
    def errors(self) -> tuple[FieldProblem, ...]:
        """Which fields are not right"""
        return self.problem.errors


class _Request(NamedTuple):
    """One exchange: both clients send the same."""

    method: str
    path: str
    answer: Any
    content: bytes | None = None


class _Decisions(msgspec.Struct):
    decisions: tuple[DecisionMade, ...]


class Client:
    """Talks to one router and keeps its connections. Safe to share between threads; close it, or use it with `with`.

    Every method raises RequestRefused for what the service refuses, TransportError when it is away or says that it
    cannot now (the call can be repeated: assignments are sticky, events are counted once by their ids).
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", *, token: str | None = None, timeout_s: float = 5.0) -> None:
        """token: SLUICE_TOKEN by default."""
        self._http = httpx.Client(base_url=_checked(url), headers=_headers(token), timeout=timeout_s)

    def assign(
        self, units: str | UnitBody | Iterable[str | UnitBody], *, experiments: Sequence[str] | None = None
    ) -> AssignAnswer:
        """Give units (user ids, or `UnitBody`) their variants, in order."""
        answer: AssignAnswer = self._ask(_assign(units, experiments))
        return answer

    def rank(
        self,
        user_id: str,
        items: Sequence[str],
        *,
        experiment: str | None = None,
        top: int | None = None,
        slate_id: str = "",
        session_id: str = "",
        attributes: Mapping[str, str] | None = None,
        record: bool = False,
    ) -> RankAnswer:
        """Put candidate items in the order of the user's variant; `record` also writes them as impressions."""
        answer: RankAnswer = self._ask(_rank(user_id, items, experiment, top, slate_id, session_id, attributes, record))
        return answer

    def send(self, events: Iterable[Event]) -> EventsAnswer:
        """Hand in impressions and outcomes; what is accepted is safe."""
        answer: EventsAnswer = self._ask(_events(events))
        return answer

    def click(self, click_id: str, impression_id: str, user_id: str, *, at_ms: int | None = None) -> EventsAnswer:
        """Hand in one click, now by default."""
        return self.send([_click(click_id, impression_id, user_id, at_ms)])

    def experiments(self) -> tuple[ExperimentAnswer, ...]:
        """Those that are served, with the allocations in use."""
        answer: ExperimentsAnswer = self._ask(_EXPERIMENTS)
        return answer.experiments

    def decisions(self) -> tuple[DecisionMade, ...]:
        """The latest of every experiment."""
        answer: _Decisions = self._ask(_DECISIONS)
        return answer.decisions

    def counters(self, experiment: str) -> ExperimentCounts:
        """The live counters of an experiment or a segment."""
        answer: ExperimentCounts = self._ask(_counters(experiment))
        return answer

    def ready(self) -> ReadyAnswer:
        """What the service says of itself."""
        answer: ReadyAnswer = self._ask(_READY)
        return answer

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: _Request) -> Any:
        try:
            answer = self._http.request(request.method, request.path, content=request.content, headers=_JSON)
        except httpx.HTTPError as error:
            raise _away(self._http.base_url, error) from error
        return _read(request, answer)


class AsyncClient:
    """`Client` for asyncio: the same methods, to be awaited. `async with`, or `aclose` it."""

    def __init__(self, url: str = "http://127.0.0.1:8000", *, token: str | None = None, timeout_s: float = 5.0) -> None:
        """token: SLUICE_TOKEN by default."""
        self._http = httpx.AsyncClient(base_url=_checked(url), headers=_headers(token), timeout=timeout_s)

    async def assign(
        self, units: str | UnitBody | Iterable[str | UnitBody], *, experiments: Sequence[str] | None = None
    ) -> AssignAnswer:
        """As `Client.assign`."""
        answer: AssignAnswer = await self._ask(_assign(units, experiments))
        return answer

    async def rank(
        self,
        user_id: str,
        items: Sequence[str],
        *,
        experiment: str | None = None,
        top: int | None = None,
        slate_id: str = "",
        session_id: str = "",
        attributes: Mapping[str, str] | None = None,
        record: bool = False,
    ) -> RankAnswer:
        """As `Client.rank`."""
        answer: RankAnswer = await self._ask(
            _rank(user_id, items, experiment, top, slate_id, session_id, attributes, record)
        )
        return answer

    async def send(self, events: Iterable[Event]) -> EventsAnswer:
        """As `Client.send`."""
        answer: EventsAnswer = await self._ask(_events(events))
        return answer

    async def click(self, click_id: str, impression_id: str, user_id: str, *, at_ms: int | None = None) -> EventsAnswer:
        """As `Client.click`."""
        return await self.send([_click(click_id, impression_id, user_id, at_ms)])

    async def experiments(self) -> tuple[ExperimentAnswer, ...]:
        """As `Client.experiments`."""
        answer: ExperimentsAnswer = await self._ask(_EXPERIMENTS)
        return answer.experiments

    async def decisions(self) -> tuple[DecisionMade, ...]:
        """As `Client.decisions`."""
        answer: _Decisions = await self._ask(_DECISIONS)
        return answer.decisions

    async def counters(self, experiment: str) -> ExperimentCounts:
        """As `Client.counters`."""
        answer: ExperimentCounts = await self._ask(_counters(experiment))
        return answer

    async def ready(self) -> ReadyAnswer:
        """As `Client.ready`."""
        answer: ReadyAnswer = await self._ask(_READY)
        return answer

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _ask(self, request: _Request) -> Any:
        try:
            answer = await self._http.request(request.method, request.path, content=request.content, headers=_JSON)
        except httpx.HTTPError as error:
            raise _away(self._http.base_url, error) from error
        return _read(request, answer)


_EXPERIMENTS = _Request("GET", "/experiments", ExperimentsAnswer)
_DECISIONS = _Request("GET", "/decisions", _Decisions)
_READY = _Request("GET", "/ready", ReadyAnswer)


def _assign(units: str | UnitBody | Iterable[str | UnitBody], experiments: Sequence[str] | None) -> _Request:
    several = (units,) if isinstance(units, str | UnitBody) else units
    body = AssignBody(
        units=tuple(UnitBody(user_id=unit) if isinstance(unit, str) else unit for unit in several),
        experiments=None if experiments is None else tuple(experiments),
    )
    return _Request("POST", "/assign", AssignAnswer, _encoded(body))


def _rank(
    user_id: str,
    items: Sequence[str],
    experiment: str | None,
    top: int | None,
    slate_id: str,
    session_id: str,
    attributes: Mapping[str, str] | None,
    record: bool,
) -> _Request:
    body = RankBody(
        user_id=user_id, items=tuple(items), experiment=experiment, top=top, slate_id=slate_id, session_id=session_id,
        attributes=dict(attributes or {}), record=record,
    )  # fmt: skip
    return _Request("POST", "/rank", RankAnswer, _encoded(body))


def _events(events: Iterable[Event]) -> _Request:
    return _Request("POST", "/events", EventsAnswer, _encoded({"events": list(events)}))


def _click(click_id: str, impression_id: str, user_id: str, at_ms: int | None) -> OutcomeObserved:
    now_ms = time.time_ns() // 1_000_000 if at_ms is None else at_ms
    return OutcomeObserved(click_id=click_id, impression_id=impression_id, user_id=user_id, at_ms=now_ms)


def _counters(experiment: str) -> _Request:
    return _Request("GET", f"/counters/{quote(experiment, safe='')}", ExperimentCounts)


def _checked(url: str) -> str:
    try:
        known = httpx.URL(url).scheme in ("http", "https")
    except httpx.InvalidURL:
        known = False
    if not known:
        raise ConfigError(f"url: {url!r}: allowed is http://host:port or https://…")
    return url


def _headers(token: str | None) -> dict[bytes, bytes]:
    token = Settings.load().token if token is None else token
    if not token.isprintable():
        raise ConfigError("token: it holds characters that no header can carry")
    return {b"Authorization": f"Bearer {token}".encode()} if token else {}


def _encoded(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise ConfigError(f"{error.object!r} is no text: {error.reason}") from None


def _away(url: httpx.URL, error: httpx.HTTPError) -> TransportError:
    return TransportError(f"no router answers at {url}: {error or type(error).__name__}")


def _read(request: _Request, answer: httpx.Response) -> Any:
    """Raises RequestRefused or TransportError for what is no answer."""
    try:
        if answer.is_success:
            return msgspec.json.decode(answer.content, type=request.answer)
        problem = msgspec.json.decode(answer.content, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TransportError(f"{request.path}: {answer.status_code}: no answer of a router: {error}") from error
    if problem.status >= 500:
        raise TransportError(f"{request.path}: {problem.status} {problem.detail}")
    raise RequestRefused(problem)
