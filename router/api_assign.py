"""`POST /assign` and `POST /rank`. Libraries: FastAPI, msgspec."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import msgspec
from fastapi import APIRouter, Request, Response

from router.api_document import answers, takes
from router.api_events import deliver
from router.api_problems import ApiProblem, answered, decoded
from router.rankers import top_k
from router.routing import AssignmentRequest, Routed, carried
from router.scoring import Job, Scored
from router.serving import Ask, Assigned, Service
from router.spool import Record
from sluice.domain.api import AssignAnswer, AssignBody, Given, RankAnswer, RankBody, RankedItem, UnitAnswer, UnitBody
from sluice.domain.events import Assignment, ImpressionShown, OutcomeObserved, UnitKind, encode
from sluice.domain.experiment import Experiment
from sluice.names import CLICKS, IMPRESSIONS

__all__ = ["ERROR_OUTCOME", "routes"]

ERROR_OUTCOME = "error"
"""What is observed of every impression that was ranked without the variant's model: a guardrail may watch it"""

_ASSIGN = AssignBody(units=(UnitBody(user_id="429"), UnitBody(user_id="17", attributes={"country": "NZ"})))
_MADE = Assignment("demo", "b", "a=50,b=50", "429", 0.5)
_ASSIGNED = AssignAnswer(
    units=(
        UnitAnswer(
            user_id="429",
            given=(
                Given(
                    experiment="demo", variant="b", outside=None, unit="429", allocation="a=50,b=50",
                    allocation_version=3, propensity=0.5, sticky=True,
                ),
            ),
            assignments=(_MADE,),
        ),
        UnitAnswer(
            user_id="17", given=(Given(experiment="demo", variant="a", outside="not targeted"),), assignments=(),
        ),
    ),
    degraded=False,
)  # fmt: skip
_RANKED = RankAnswer(
    experiment="demo", variant="b", model_version="7", slate_id="9f86d081884c7d65", at_ms=1_700_000_000_000,
    items=(RankedItem(item_id="318", score=0.71, impression_id="9f86d081884c7d65-0", position=0),),
    assignments=(_MADE,), degraded=False, fallback=False, recorded=False,
)  # fmt: skip
_RANK = RankBody(user_id="429", items=("318", "356", "296", "593"), top=3)


def routes(service: Service) -> APIRouter:
    """Their routes on `service`."""
    api = APIRouter(tags=["traffic"])
    assign_body = msgspec.json.Decoder(AssignBody)
    rank_body = msgspec.json.Decoder(RankBody)

    @api.post(
        "/assign", summary="Give units their variants",
        responses=answers(AssignAnswer, 404, 422, 503, example=_ASSIGNED), openapi_extra=takes(AssignBody, _ASSIGN),
    )  # fmt: skip
    async def assign(request: Request) -> Response:
        """One answer a unit and experiment. Sticky: a unit keeps its variant. Every answer is in the exposure log."""
        body = await decoded(request, assign_body)
        at_ms = _now_ms() if body.at_ms is None else body.at_ms
        asked = _asked(service.router.experiments, body.experiments)
        given = [_units(unit.session_id, unit.slate_id) for unit in body.units]
        experiments = asked if body.experiments is not None else _answering(asked, given)
        requests = []
        for index, (unit, units) in enumerate(zip(body.units, given, strict=True)):
            _check_kinds(experiments, units, f"units[{index}].")
            requests.append(AssignmentRequest(unit.user_id, units, at_ms, unit.attributes))
        only = _only(asked, experiments) if body.experiments is None else body.experiments
        found: Assigned = await service.assigning.ask(Ask(requests, only))
        units_given = tuple(
            [
                UnitAnswer(user_id=unit.user_id, given=_given(answer), assignments=carried(answer))
                for unit, answer in zip(body.units, found.answers, strict=True)
            ]
        )
        return answered(AssignAnswer(units=units_given, degraded=found.degraded))

    @api.post(
        "/rank", summary="Put candidates in the order of the unit's variant",
        responses=answers(RankAnswer, 404, 422, 503, example=_RANKED), openapi_extra=takes(RankBody, _RANK),
    )  # fmt: skip
    async def rank(request: Request) -> Response:
        """The unit is assigned as by `/assign`; then its variant's model or rule ranks the items.

        A model that fails or is slow does not fail the request: the order of the request stands and `fallback` says so.
        """
        return answered(await _rank(service, await decoded(request, rank_body)))

    return api


async def _rank(service: Service, body: RankBody) -> RankAnswer:
    experiment = _experiment(service.router.experiments, body.experiment)
    if len(set(body.items)) < len(body.items):
        raise ApiProblem(422, "an item occurs twice", kind="invalid", field="items")
    at_ms = _now_ms() if body.at_ms is None else body.at_ms
    slate_id = body.slate_id or secrets.token_hex(8)
    units = _units(body.session_id, slate_id)
    _check_kinds([experiment], units, "")
    asked = service.router.experiments
    only = _only(asked, _answering(asked, [units]))
    found = await service.assigning.ask(Ask([AssignmentRequest(body.user_id, units, at_ms, body.attributes)], only))
    answer = found.answers[0]
    routed = next((one for one in answer if one.experiment == experiment.name), None)
    variant = routed.variant if routed is not None else experiment.control_name
    job = Job(experiment.name, variant, body.user_id, body.items, slate_id, at_ms)
    begun = time.perf_counter()
    logged = body.record and experiment.rankings
    everything = await service.rankings.score(experiment, routed, job) if logged else {}
    scored = everything[variant] if logged else await service.scoring.score(job)
    top = len(body.items) if body.top is None else body.top
    service.shadows.ask(job, scored, top, time.perf_counter() - begun)
    order = top_k(scored.scores, top)
    items = tuple(
        [
            RankedItem(item_id=body.items[index], score=scored.scores[index], impression_id=f"{slate_id}-{position}",
                       position=position)
            for position, index in enumerate(order)
        ]
    )  # fmt: skip
    assignments = carried(answer)
    if logged:
        service.rankings.write(experiment, routed, job, everything, items)
    if body.record:
        await deliver(service, _records(body.user_id, items, slate_id, at_ms, assignments, scored), [at_ms])
    return RankAnswer(
        experiment=experiment.name, variant=variant, model_version=scored.version, slate_id=slate_id, at_ms=at_ms,
        items=items, assignments=assignments, degraded=found.degraded, fallback=scored.failed, recorded=body.record,
    )  # fmt: skip


def _records(
    user_id: str,
    items: Sequence[RankedItem],
    slate_id: str,
    at_ms: int,
    assignments: tuple[Assignment, ...],
    scored: Scored,
) -> list[Record]:
    """The impressions of a ranking and, where the model failed, what its guardrail counts."""
    records = []
    for item in items:
        shown = ImpressionShown(
            impression_id=item.impression_id, user_id=user_id, item_id=item.item_id, at_ms=at_ms,
            assignments=assignments, slate_id=slate_id, position=item.position,
        )  # fmt: skip
        records.append(Record(IMPRESSIONS, user_id, encode(shown)))
        if scored.failed:
            error = OutcomeObserved(
                click_id=f"{item.impression_id}-{ERROR_OUTCOME}", impression_id=item.impression_id, user_id=user_id,
                at_ms=at_ms, outcome=ERROR_OUTCOME,
            )  # fmt: skip
            records.append(Record(CLICKS, user_id, encode(error)))
    return records


def _given(answer: Sequence[Routed]) -> tuple[Given, ...]:
    return tuple([_one_given(routed, routed.assignment) for routed in answer])


def _one_given(routed: Routed, made: Assignment | None) -> Given:
    if made is None:
        return Given(experiment=routed.experiment, variant=routed.variant, outside=routed.outside)
    return Given(
        experiment=routed.experiment, variant=routed.variant, outside=None, unit=made.unit, unit_kind=made.unit_kind,
        allocation=made.allocation, allocation_version=routed.version, propensity=made.propensity,
        sticky=routed.sticky,
    )  # fmt: skip


def _units(session_id: str, slate_id: str) -> dict[UnitKind, str]:
    units: dict[UnitKind, str] = {}
    if session_id:
        units["session"] = session_id
    if slate_id:
        units["slate"] = slate_id
    return units


def _answering(asked: Sequence[Experiment], given: Sequence[dict[UnitKind, str]]) -> Sequence[Experiment]:
    """Those whose units the request has at all, for whom nobody named any.

    An experiment by sessions must not fail the requests of those who know of no sessions, the moment it is started.
    """
    return [one for one in asked if not _needs(one) or any(one.unit in units for units in given)]


def _only(asked: Sequence[Experiment], experiments: Sequence[Experiment]) -> tuple[str, ...] | None:
    """None: all that are asked"""
    return None if len(experiments) == len(asked) else tuple(one.name for one in experiments)


def _needs(experiment: Experiment) -> bool:
    """Whether a request must have the id of its unit, beside the user's."""
    status = experiment.state.status
    return experiment.unit != "user" and (status == "running" or (status == "draft" and bool(experiment.forced)))


def _check_kinds(experiments: Sequence[Experiment], units: dict[UnitKind, str], where: str) -> None:
    for experiment in experiments:
        kind = experiment.unit
        if kind not in units and _needs(experiment):
            raise ApiProblem(
                422, f"experiment {experiment.name} randomises by {kind}: its id is needed", kind="unit-missing",
                field=f"{where}{kind}_id",
            )  # fmt: skip


def _asked(experiments: Sequence[Experiment], names: tuple[str, ...] | None) -> Sequence[Experiment]:
    if names is None:
        return experiments
    for index, name in enumerate(names):
        if all(experiment.name != name for experiment in experiments):
            raise _unknown(experiments, name, f"experiments[{index}]")
    return [experiment for experiment in experiments if experiment.name in names]


def _unknown(experiments: Sequence[Experiment], name: str, field: str) -> ApiProblem:
    known = ", ".join(experiment.name for experiment in experiments) or "none yet"
    return ApiProblem(404, f"experiment {name!r}: there are: {known}", kind="unknown-experiment", field=field)


def _experiment(experiments: Sequence[Experiment], name: str | None) -> Experiment:
    if name is None and len(experiments) == 1:
        return experiments[0]
    for experiment in experiments:
        if experiment.name == name:
            return experiment
    if name is None:
        known = ", ".join(experiment.name for experiment in experiments) or "none yet"
        raise ApiProblem(422, f"name one of: {known}", kind="experiment-missing", field="experiment")
    raise _unknown(experiments, name, "experiment")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
