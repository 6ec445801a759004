"""Off-policy evaluation of a log as a table: what would another policy have earned?

    report = evaluate(pyarrow.parquet.read_table("log.parquet"), "uniform")
    report.dr.estimate, report.dr.interval

Libraries: pyarrow, numpy, msgspec. The estimators and their sources: analyzer/engine/ope.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from analyzer.engine.moments import Floats
from analyzer.engine.ope import ByRow, Estimate, Ints, Log, OffPolicy, Overlap, log_of, off_policy
from analyzer.engine.sequential import PLANNED_EFFECT
from sluice.domain.allocation import parse_allocation_key
from sluice.domain.bucketing import bucket
from sluice.errors import ConfigError, InvalidEvent

__all__ = ["METHODS", "Fields", "Report", "evaluate", "fields_of"]

METHODS = ("ips", "snips", "dm", "dr", "replay")
FOLDS = 5
MOST_STRATA = 100_000
LEAST_UNITS = 30
"""Effective units below which the normal limit is not to be trusted"""

# Meaning → names it is found under, the first that is there.
USUAL = {
    "unit": ("unit", "unit_id", "user_id", "user"),
    "variant": ("variant", "action", "arm"),
    "propensity": ("propensity", "pscore"),
    "reward": ("reward", "click", "clicked"),
    "allocation": ("allocation",),
}
NEEDED = ("variant", "propensity", "reward")


class Fields(NamedTuple):
    """Where things stand in a table: names of columns."""

    unit: str | None
    variant: str
    propensity: str
    reward: str
    allocation: str | None
    context: tuple[str, ...]
    predictions: dict[str, str]
    """Variant → column"""
    target: str | None

    @property
    def text(self) -> list[str]:
        """Those that hold names, whatever they look like: a user 007 is not a user 7."""
        return [name for name in (self.unit, self.variant, self.allocation, *self.context) if name]

    @property
    def names(self) -> list[str]:
        numbers = [self.propensity, self.reward, *self.predictions.values(), *([self.target] if self.target else [])]
        return list(dict.fromkeys([*self.text, *numbers]))


class VariantRows(Struct, frozen=True, kw_only=True):
    """What the log holds of one variant."""

    rows: int
    mean_reward: float
    mean_propensity: float


class Report(Struct, frozen=True, kw_only=True):
    """Every method's value of the target in reward per row. Numbers that cannot be had are nan, in JSON null."""

    target: str
    rows: int
    units: int
    alpha: float
    ips: Estimate
    snips: Estimate
    dm: Estimate | None
    """None, as `dr`, when the target is known for the shown variants only"""
    dr: Estimate | None
    replay: Estimate
    logged: Estimate
    """What the log itself earned"""
    overlap: Overlap
    variants: dict[str, VariantRows]
    notes: tuple[str, ...]
    """What to be wary of, in words"""

    def encode(self) -> bytes:
        """One JSON object."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        return msgspec.json.encode(
            {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in shown.items()}
        )


def fields_of(
    names: Sequence[str], target: str, *, columns: Mapping[str, str] | None = None, context: Sequence[str] = (),
    predictions: str | None = None,
) -> Fields:  # fmt: skip
    """The columns that an evaluation of a table with columns `names` reads. Arguments as `evaluate`; ConfigError."""
    given = dict(columns or {})
    for meaning in given:
        if meaning not in USUAL:
            raise ConfigError(f"columns: {meaning!r}: allowed are {', '.join(USUAL)}")
    found: dict[str, str | None] = {}
    for meaning, usual in USUAL.items():
        choices = (given[meaning],) if meaning in given else usual
        found[meaning] = next((name for name in choices if name in names), None)
        if found[meaning] is None and (meaning in given or meaning in NEEDED):
            raise _no_column(meaning, " or ".join(map(repr, choices)), names)
    wanted = target.removeprefix("column:") if target.startswith("column:") else None
    for option, name in (*(("context", name) for name in context), ("target", wanted)):
        if name is not None and name not in names:
            raise _no_column(option, repr(name), names)
    predicted = {n.removeprefix(predictions): n for n in names if n.startswith(predictions)} if predictions else {}
    if predictions and not predicted:
        raise _no_column("predictions", f"{predictions}VARIANT", names)
    return Fields(
        unit=found["unit"],
        variant=found["variant"] or "",
        propensity=found["propensity"] or "",
        reward=found["reward"] or "",
        allocation=found["allocation"],
        context=tuple(context),
        predictions=predicted,
        target=wanted,
    )


def evaluate(
    table: pa.Table, target: str = "uniform", *, columns: Mapping[str, str] | None = None,
    context: Sequence[str] = (), predictions: str | None = None, clip: float | None = None, alpha: float = 0.05,
    effect: float = PLANNED_EFFECT,
) -> Report:  # fmt: skip
    """The value of `target` in reward per row, from rows of (unit, variant, propensity, reward).

    target: `uniform` over the variants of the log, a VARIANT, whole or broken percents `a=20,b=80`, or
    `column:NAME`, which holds the variant that the target would show or, as a number, its probability of the variant
    shown. columns: meaning (unit, variant, propensity, reward, allocation) → name of the column, where it is not a
    usual one; without a unit every row is one. context: columns within whose values the outcome model is the mean by
    variant. predictions: prefix of columns PREFIX + VARIANT with the predictions of a model fitted elsewhere, in place
    of that. clip: largest weight. effect: difference in reward for which `sequence` is tightest.

    Raises ConfigError, in one line, for everything that cannot be evaluated.
    """
    fields = fields_of(table.column_names, target, columns=columns, context=context, predictions=predictions)
    if not table.num_rows:
        raise ConfigError("the log has no rows")
    shown, variants = _codes(table, fields.variant)
    if fields.unit is None:
        unit, units = np.arange(table.num_rows), [str(row) for row in range(table.num_rows)]
    else:
        unit, units = _codes(table, fields.unit)
    propensity, reward = _numbers(table, fields.propensity), _numbers(table, fields.reward)
    notes = [] if fields.unit else ["No column names the unit: every row counts as a unit of its own."]
    offered, unread = _offered(table, fields.allocation, variants)
    notes += unread
    try:
        log = log_of(unit, shown, propensity, reward, variants=len(variants))
        wanted = _target(table, target, fields.target, variants, log)
        result = off_policy(
            log,
            wanted,
            fold=np.array([int(FOLDS * bucket("sluice ope fold", name)) for name in units]),
            draw=np.array([bucket("sluice ope replay", name) for name in units]),
            stratum=_strata(table, fields.context),
            predictions=_predictions(table, fields.predictions, variants),
            offered=offered,
            clip=clip,
            alpha=alpha,
            effect=effect,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Report(
        target=target,
        rows=table.num_rows,
        units=len(units),
        alpha=alpha,
        **{name: getattr(result, name) for name in (*METHODS, "logged", "overlap")},
        variants=_by_variant(log, variants),
        notes=(*notes, *_notes(result, clip, effect, predicted=bool(fields.predictions))),
    )


def _no_column(option: str, wanted: str, names: Sequence[str]) -> ConfigError:
    return ConfigError(f"{option}: no column {wanted}: the log has {', '.join(map(str, names))[:300]}")


def _codes(table: pa.Table, name: str) -> tuple[Ints, list[str]]:
    """Codes of a column of names, and the names, in alphabetical order. Raises ConfigError at a missing value."""
    column = table.column(name)
    if column.null_count:
        raise ConfigError(f"{name}: nothing in row {int(pc.index(pc.is_null(column), True).as_py()) + 1}")
    try:
        values = column.cast(pa.large_string())
    except (pa.ArrowException, NotImplementedError) as error:
        raise ConfigError(f"{name}: names are needed, got {column.type}") from error
    known = pc.unique(values).sort()
    return pc.index_in(values, value_set=known).to_numpy().astype(np.int64), known.to_pylist()


def _numbers(table: pa.Table, name: str) -> Floats:
    """Missing values are nan."""
    try:
        return np.asarray(table.column(name).cast(pa.float64()).to_numpy(), dtype=np.float64)
    except (pa.ArrowException, NotImplementedError) as error:
        raise ConfigError(f"{name}: numbers are needed, got {table.column(name).type}: {error}") from error


def _target(table: pa.Table, target: str, column: str | None, variants: list[str], log: Log) -> ByRow | Floats:
    rows, k = log.variant.size, len(variants)
    if column is None:
        return ByRow(np.array([_shares(target, variants)]), np.zeros(rows, dtype=np.int64))
    kind = table.column(column).type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        shown = _numbers(table, column)
        if k != 2 or not np.all((shown >= 0) & (shown <= 1)):
            return shown
        other = 1 - shown
        first = log.variant == 0
        both = np.stack([np.where(first, shown, other), np.where(first, other, shown)], axis=-1)
        return ByRow(both, np.arange(rows))
    chosen, names = _codes(table, column)
    unknown = [name for name in names if name not in variants]
    if unknown:
        raise ConfigError(f"target: {column} holds {unknown[0]!r}, which the log never shows: {_listed(variants)}")
    return ByRow(np.eye(k)[[variants.index(name) for name in names]], chosen)


def _shares(target: str, variants: list[str]) -> list[float]:
    """Probability of every variant. Raises ConfigError."""
    if target in variants:
        return [float(name == target) for name in variants]
    if target == "uniform":
        return [1 / len(variants)] * len(variants)
    if "=" not in target:
        raise ConfigError(
            f"target: {target!r}: allowed are uniform, a variant the log shows ({_listed(variants)}), percents like "
            f"{variants[0]}=100, or column:NAME"
        )
    shares: dict[str, float] = {}
    for part in target.split(","):
        name, _, percent = part.strip().rpartition("=")
        try:
            share = float(percent)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 100 or name in shares:
            raise ConfigError(f"target: {part.strip()!r}: expected VARIANT=PERCENT, each variant once")
        shares[name] = share
    unknown = [name for name, share in shares.items() if name not in variants and share]
    if unknown:
        raise ConfigError(
            f"target: {shares[unknown[0]]:g} % of it is on {unknown[0]!r}, which the log never shows; no method can "
            f"tell what that earns. Shown are {_listed(variants)}"
        )
    if abs(sum(shares.values()) - 100) > 1e-6:
        raise ConfigError(f"target: {target!r}: the shares sum to {sum(shares.values()):g}, not to 100 %")
    return [shares.get(name, 0.0) / sum(shares.values()) for name in variants]


def _strata(table: pa.Table, context: Sequence[str]) -> Ints | None:
    """One number for each combination of values; missing is a value."""
    strata: Ints | None = None
    for name in context:
        column = table.column(name)
        codes = pc.index_in(column, value_set=pc.unique(column)).to_numpy().astype(np.int64)
        if strata is not None:
            codes = strata * (int(codes.max()) + 1) + codes
        strata = np.unique(codes, return_inverse=True)[1].astype(np.int64)
        if strata.max() >= MOST_STRATA:
            raise ConfigError(f"context: more than {MOST_STRATA:,} combinations of values: bin {name} coarser")
    return strata


def _predictions(table: pa.Table, predicted: Mapping[str, str], variants: list[str]) -> ByRow | None:
    if not predicted:
        return None
    missing = [name for name in variants if name not in predicted]
    if missing:
        raise ConfigError(f"predictions: no column for variant {missing[0]!r}; there are {', '.join(predicted)}")
    columns = [_numbers(table, predicted[name]) for name in variants]
    for name, values in zip(variants, columns, strict=True):
        if not np.all(np.abs(values) <= 1e12):
            raise ConfigError(f"{predicted[name]}: a prediction is no finite number, or beyond 1e12")
    return ByRow(np.stack(columns, axis=-1), np.arange(table.num_rows))


def _offered(table: pa.Table, column: str | None, variants: list[str]) -> tuple[ByRow | None, list[str]]:
    """The shares in force when each row was drawn, where the log tells the allocation; else a note, if there is one."""
    if column is None:
        return None, []
    try:
        codes, keys = _codes(table, column)
        shares = [parse_allocation_key(key) for key in keys]
    except (ConfigError, InvalidEvent):
        return None, [f"{column} does not hold allocations (a=20,b=80): it was not looked at."]
    return ByRow(np.array([[of.get(name, 0) for name in variants] for of in shares], dtype=np.float64), codes), []


def _by_variant(log: Log, variants: list[str]) -> dict[str, VariantRows]:
    rows = np.bincount(log.variant, minlength=len(variants))
    reward, propensity = (np.bincount(log.variant, part) / rows for part in (log.reward, log.propensity))
    return {
        name: VariantRows(rows=int(rows[i]), mean_reward=float(reward[i]), mean_propensity=float(propensity[i]))
        for i, name in enumerate(variants)
    }


def _notes(result: OffPolicy, clip: float | None, effect: float, *, predicted: bool) -> list[str]:
    notes, overlap = [], result.overlap
    if result.snips.effective_size < LEAST_UNITS:
        notes.append(
            f"The rows that count for the target tell as much as {result.snips.effective_size:.1f} units: below "
            f"{LEAST_UNITS} no interval here is to be trusted."
        )
    if result.snips.stderr > effect:
        notes.append(
            f"The always-valid intervals are tightest for differences of {effect:g} in reward, less than one standard "
            "error here: choose the effect that matters."
        )
    if overlap.unsupported > 0:
        notes.append(
            f"{100 * overlap.unsupported:.3g} % of the target is on variants whose share was 0 at the time: ips lacks "
            "what they would have earned, the others assume it."
        )
    elif abs(overlap.mean_weight - 1) > 4 * overlap.mean_weight_stderr + 1e-9:
        notes.append(
            f"The mean weight is {overlap.mean_weight:.4g} and should be 1 (standard error "
            f"{overlap.mean_weight_stderr:.2g}): the propensities are not those of the draws, or the target wants "
            "variants that could not be drawn."
        )
    if result.snips.stderr == 0:
        notes.append(
            "All units earned the same, which does not show how units differ: an interval of no width is none."
        )
    if clip is not None and overlap.clipped > 0:
        notes.append(
            f"Clipping at {clip:g} removed {100 * overlap.clipped:.3g} % of the weight; clip_bias says what that did, "
            "and the intervals do not include it."
        )
    if result.dm is not None and predicted:
        notes.append("dm takes the predictions as right: its intervals do not include their error.")
    if result.dm is None:
        notes.append("The target is known for the shown variants only: dm and dr need its probabilities of all.")
    return notes


def _listed(variants: Sequence[str]) -> str:
    return ", ".join(variants[:10]) + (f" and {len(variants) - 10} more" if len(variants) > 10 else "")
