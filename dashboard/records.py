"""Decision records as they stand in the log, read as far as they can be. Pure. Library: msgspec.

A record of another version may lack fields or have them in another form, and a foreign one may hold anything. Each
field is read for itself, so that one which cannot be read costs nothing but itself. Of the evidence, most of the
bytes, only the totals are.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import Meta, Raw, Struct

from dashboard.views import DelayView, ResultView, Whole
from sluice.domain.canary import Canary, CanaryReport
from sluice.domain.events import GuardrailResult, MovedUnits, Name, Percent, SegmentResult, Verdict
from sluice.errors import InvalidEvent

__all__ = ["MAX_VARIANTS", "VERDICTS", "Recorded", "read_decision"]

VERDICTS: tuple[str, ...] = (*get_args(Verdict), "unknown")
MAX_VARIANTS = 32
"""Of one record, as an experiment has at most; what is beyond is left out"""
MAX_REASONS = 50
MAX_REASON = 2000
"""Characters"""

T = TypeVar("T")
_Version = Annotated[int, Meta(ge=0, le=2**53)]
_Time = Annotated[int, Meta(ge=-1, le=9_999_999_999_999)]
_Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Head(Struct):
    """What a record must have."""

    experiment: Name
    version: _Version


class _Count(Struct):
    count: Whole = 0


class _Sums(Struct):
    impressions: Whole = 0
    outcomes: dict[str, _Count] = {}


class _Cell(Struct):
    variant: str
    statistics: _Sums


class Recorded(Struct, frozen=True, kw_only=True):
    """A decision without its evidence. Fields as in `sluice.domain.events.DecisionMade`."""

    experiment: str
    version: int
    at_ms: int = -1
    verdict: str = "unknown"
    reasons: tuple[str, ...] = ()
    allocation: dict[str, Percent] = {}
    allocation_version: int = 0
    previous_allocation: dict[str, Percent] = {}
    results: tuple[ResultView, ...] = ()
    sample_ratio_p: float | None = None
    sample_ratio_always_valid_p: float | None = None
    guardrails: tuple[GuardrailResult, ...] = ()
    canary: CanaryReport | None = None
    moved: tuple[MovedUnits, ...] = ()
    delay: DelayView | None = None
    segments: tuple[SegmentResult, ...] = ()
    offsets: dict[str, tuple[int, int]] = {}
    config_hash: str = ""
    config: dict[str, Any] = {}
    seed: int = 0
    totals: dict[str, tuple[int, int]] = {}
    """Variant → (impressions, primary outcomes) of all evidence; of a canary, `results` tell of its step alone"""
    missing: tuple[str, ...] = ()
    """Names of fields that are not there or could not be read"""

    def setting(self, field: str, default: str) -> str:
        """A text of the configuration; `default` where there is none."""
        found = self.config.get(field)
        return found if isinstance(found, str) and found else default

    @property
    def variants(self) -> tuple[str, ...]:
        """In the order of the experiment, as far as the record knows it."""
        return tuple(dict.fromkeys((*(result.variant for result in self.results), *self.allocation)))[:MAX_VARIANTS]

    @property
    def control(self) -> str:
        return self.setting("control", next(iter(self.variants), ""))

    @property
    def canary_plan(self) -> Canary | None:
        """What is configured; None where the experiment is no canary, or another version's."""
        try:
            return msgspec.convert(self.config.get("canary"), Canary | None)
        except msgspec.ValidationError:
            return None

    @property
    def leader(self) -> str | None:
        """The variant that is most probably the best, of equals the first."""
        known = [result for result in self.results if result.p_best is not None]
        return max(known, key=lambda result: result.p_best or 0.0).variant if known else None


# Fields that came after the first version: a record without them is complete.
_LATER = ("sample_ratio_always_valid_p", "guardrails", "moved", "delay", "segments", "previous_allocation", "canary")
_TYPES: dict[str, Any] = {
    "at_ms": _Time,
    "verdict": Verdict,
    "reasons": tuple[str, ...],
    "allocation": dict[str, Percent],
    "allocation_version": _Version,
    "previous_allocation": dict[str, Percent],
    "results": tuple[ResultView, ...],
    "sample_ratio_p": float | None,
    "sample_ratio_always_valid_p": float | None,
    "guardrails": tuple[GuardrailResult, ...],
    "canary": CanaryReport | None,
    "moved": tuple[MovedUnits, ...],
    "delay": DelayView | None,
    "segments": tuple[SegmentResult, ...],
    "offsets": dict[str, tuple[int, int]],
    "config_hash": str,
    "config": dict[str, Any],
    "seed": _Seed,
}
_DECODERS = {name: msgspec.json.Decoder(kind) for name, kind in _TYPES.items()}
_HEAD = msgspec.json.Decoder(_Head)
_CELLS = msgspec.json.Decoder(list[_Cell])
_FIELDS = msgspec.defstruct("_Fields", [(name, Raw, b"") for name in (*_TYPES, "evidence")])
_RAW: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_FIELDS)
_PROBLEMS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_RESULT = {field.name: msgspec.json.Decoder(field.type) for field in msgspec.structs.fields(ResultView)}


def read_decision(data: bytes | None) -> Recorded:
    """Raises InvalidEvent when it is no JSON object, or names no experiment or version."""
    if not data:
        raise InvalidEvent("empty record")
    try:
        head, raw = _HEAD.decode(data), _RAW.decode(data)
    except _PROBLEMS as error:
        raise InvalidEvent(str(error)) from error
    found: dict[str, Any] = {}
    missing = []
    for name, decoder in _DECODERS.items():
        value: bytes = bytes(getattr(raw, name))
        if not value:
            if name not in _LATER:
                missing.append(name)
            continue
        try:
            found[name] = decoder.decode(value)
        except _PROBLEMS:
            missing.append(name)
            if name == "results":
                found[name] = _salvaged(value)
    if len(found.get("results", ())) > MAX_VARIANTS or len(found.get("allocation", ())) > MAX_VARIANTS:
        missing.append(f"variants beyond {MAX_VARIANTS}")
        found["results"] = found.get("results", ())[:MAX_VARIANTS]
        found["allocation"] = dict(list(found.get("allocation", {}).items())[:MAX_VARIANTS])
    found["totals"] = _totals(bytes(raw.evidence), found)
    found["reasons"] = tuple(reason[:MAX_REASON] for reason in found.get("reasons", ())[:MAX_REASONS])
    return Recorded(experiment=head.experiment, version=head.version, missing=tuple(missing), **found)


def _totals(evidence: bytes, found: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Those of the results where the evidence cannot be read, or holds nothing."""
    totals = {
        result.variant: (result.impressions, result.outcomes)
        for result in found.get("results", ())
        if result.impressions is not None and result.outcomes is not None
    }
    try:
        cells = _CELLS.decode(evidence) if evidence else []
    except _PROBLEMS:
        return totals
    primary = found.get("config", {}).get("primary", "click")
    counted: dict[str, tuple[int, int]] = {}
    for cell in cells:
        impressions, outcomes = counted.get(cell.variant, (0, 0))
        clicks = cell.statistics.outcomes.get(primary, _Count()).count if isinstance(primary, str) else 0
        counted[cell.variant] = (impressions + cell.statistics.impressions, outcomes + clicks)
    return {**totals, **{name: counted[name] for name in list(counted)[:MAX_VARIANTS]}}


def _salvaged(data: bytes) -> tuple[ResultView, ...]:
    """Of each variant the fields that can be read; a variant without a name is left out."""
    try:
        rows = msgspec.json.decode(data, type=list[dict[str, Raw]])
    except _PROBLEMS:
        return ()
    kept = []
    for row in rows[:MAX_VARIANTS]:
        values: dict[str, Any] = {}
        for name, decoder in _RESULT.items():
            try:
                values[name] = decoder.decode(bytes(row[name]))
            except (KeyError, *_PROBLEMS):
                continue
        if "variant" in values:
            kept.append(ResultView(**values))
    return tuple(kept)
