"""What the router's HTTP API takes and answers, as frozen structs: the service and `sluice.Client` share them.

Library: msgspec (decoding, validation and the JSON Schemas of the OpenAPI document come from here).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from sluice.domain.audience import Outside
from sluice.domain.events import Assignment, Id, ImpressionShown, Name, OutcomeObserved, TimeMs, UnitKind
from sluice.domain.experiment import Experiment
from sluice.domain.status import MAX_BY, MAX_WHY

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_EVENTS",
    "MAX_ITEMS",
    "MAX_UNITS",
    "AssignAnswer",
    "AssignBody",
    "ChangeBody",
    "CreateBody",
    "DecisionsAnswer",
    "Event",
    "EventsAnswer",
    "EventsBody",
    "ExperimentAnswer",
    "ExperimentsAnswer",
    "FieldProblem",
    "Given",
    "HealthAnswer",
    "Problem",
    "RankAnswer",
    "RankBody",
    "RankedItem",
    "ReadyAnswer",
    "RejectedEvent",
    "UnitAnswer",
    "UnitBody",
]

MAX_BODY_BYTES = 1024 * 1024
MAX_UNITS = 1000
"""Of one request"""
MAX_ITEMS = 1000
"""Candidates of one ranking"""
MAX_EVENTS = 5000
"""Of one request"""

OptionalId: TypeAlias = Annotated[str, Meta(max_length=128)]
SlateId: TypeAlias = Annotated[str, Meta(max_length=96)]
"""With room for what makes it an impression id"""
Attributes: TypeAlias = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=256)]], Meta(max_length=32)
]
Percents: TypeAlias = dict[str, int]


class UnitBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who asks: a user, and the session and slate of the moment for experiments that randomise by them."""

    user_id: Id
    session_id: OptionalId = ""
    slate_id: OptionalId = ""
    attributes: Attributes = {}
    """What is known of user or moment: for targeting and for counts by segment"""


class AssignBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /assign`: one unit or many."""

    units: Annotated[tuple[UnitBody, ...], Meta(min_length=1, max_length=MAX_UNITS)]
    experiments: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=100)] | None = None
    """Only these answer, and only they see an exposure; all by default"""
    at_ms: TimeMs | None = None
    """Event time; now by default"""


class Given(Struct, frozen=True, kw_only=True):
    """What one experiment gave to one unit."""

    experiment: str
    variant: str
    """What the unit sees"""
    outside: Outside | None
    """Why the unit is outside the experiment: it sees `variant`, and is no evidence. Null when it is in"""
    unit: str = ""
    unit_kind: UnitKind = "user"
    allocation: str = ""
    """Key of the allocation it was drawn from, as `a=30,b=70`"""
    allocation_version: int = 0
    propensity: float | None = None
    sticky: bool = False
    """True when the unit was given this variant before"""


class UnitAnswer(Struct, frozen=True, kw_only=True):
    """What one unit was given."""

    user_id: str
    given: tuple[Given, ...]
    """One an experiment"""
    assignments: tuple[Assignment, ...]
    """Goes as it is into `assignments` of the impressions that the unit is shown"""


class AssignAnswer(Struct, frozen=True, kw_only=True):
    """In the order of the request."""

    units: tuple[UnitAnswer, ...]
    degraded: bool
    """True when Redis was away: drawn by hash alone"""


class RankBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /rank`: put candidate items in the order of the unit's variant."""

    user_id: Id
    items: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=MAX_ITEMS, extra_json_schema={"uniqueItems": True})]
    """Candidates, each once; equal scores keep this order"""
    experiment: Name | None = None
    """Whose variant ranks; may be left out while there is one experiment only"""
    top: Annotated[int, Meta(ge=1, le=MAX_ITEMS)] | None = None
    """Answer with so many of the best; all by default"""
    session_id: OptionalId = ""
    slate_id: SlateId = ""
    """Names the impressions, so a request that is repeated with it is counted once; drawn by default"""
    attributes: Attributes = {}
    at_ms: TimeMs | None = None
    record: bool = False
    """Also write the answered items as impressions; the answer comes when they are safe"""


class RankedItem(Struct, frozen=True, kw_only=True):
    """One place of the ranking."""

    item_id: str
    score: float
    impression_id: str
    """For the impression and what follows it"""
    position: int


class RankAnswer(Struct, frozen=True, kw_only=True):
    """Best first."""

    experiment: str
    variant: str
    model_version: str
    """Of the model that scored; empty for a rule"""
    slate_id: str
    at_ms: int
    items: tuple[RankedItem, ...]
    assignments: tuple[Assignment, ...]
    """Goes as it is into `assignments` of the impressions, unless they were recorded here"""
    degraded: bool
    fallback: bool
    """True when the variant's model failed and the order of the request was kept"""
    recorded: bool


Event: TypeAlias = ImpressionShown | OutcomeObserved


class EventsBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /events`: each is checked by itself (`Event`), so one bad event rejects no other."""

    events: Annotated[tuple[msgspec.Raw, ...], Meta(min_length=1, max_length=MAX_EVENTS)]


class RejectedEvent(Struct, frozen=True, kw_only=True):
    """An event that was not taken; sending it again will not help."""

    index: int
    """In the request, from 0"""
    detail: str


class EventsAnswer(Struct, frozen=True, kw_only=True):
    """Every accepted event lies on the broker, or on this router's disk until the broker is back."""

    accepted: int
    rejected: tuple[RejectedEvent, ...]


class FieldProblem(Struct, frozen=True, kw_only=True):
    """One field that is not right."""

    field: str
    """As `units[0].user_id`; empty for the body as a whole"""
    detail: str


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error, as RFC 9457 has it (`application/problem+json`)."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldProblem, ...] = ()


class ExperimentAnswer(Struct, frozen=True, kw_only=True):
    """One experiment, and the allocation that this router draws new units from."""

    experiment: Experiment
    config_hash: str
    allocation: Percents
    """Variant → whole percents"""
    allocation_version: int


class ExperimentsAnswer(Struct, frozen=True, kw_only=True):
    """In order of name."""

    experiments: tuple[ExperimentAnswer, ...]


class DecisionsAnswer(Struct, frozen=True, kw_only=True):
    """The latest decision of every experiment that has one."""

    decisions: tuple[msgspec.Raw, ...]


class HealthAnswer(Struct, frozen=True, kw_only=True):
    """The process lives; whether others do is told by `/ready`."""

    status: Literal["ok"] = "ok"


class ReadyAnswer(Struct, frozen=True, kw_only=True):
    """Requests are answered. What the service does without meanwhile is `away`."""

    status: Literal["ready", "closing"]
    redis: Literal["ok", "away"]
    kafka: Literal["ok", "away"]
    spool_bytes: int
    experiments: int
    models: dict[str, str]
    """Model → version that serves"""
    unserved: dict[str, str] = {}
    """Model → why it cannot be served; the fallbacks of its variants rank meanwhile"""


By: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_BY)]
Why: TypeAlias = Annotated[str, Meta(max_length=MAX_WHY)]


class CreateBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /experiments`"""

    experiment: msgspec.Raw
    """The fields of an experiment's file"""
    by: By
    """Who asks for it"""
    why: Why = ""


class ChangeBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /experiments/{name}/start` and its like."""

    by: By
    """Who asks for it"""
    why: Why = ""
    revision: Annotated[int, Meta(ge=0)] | None = None
    """The one that was seen; refused when somebody has changed the experiment since"""
    variant: Annotated[str, Meta(max_length=64)] = ""
    """What `ship` ships"""
