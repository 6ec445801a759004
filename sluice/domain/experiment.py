"""An experiment as people write it: YAML in, a validated frozen struct out.

Libraries: PyYAML (safe loader), msgspec.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
import yaml
from msgspec import Meta, Struct

from sluice.domain.allocation import equal_percents
from sluice.domain.events import UnitKind
from sluice.domain.segments import MAX_KEY
from sluice.errors import ConfigError

__all__ = [
    "Bandit",
    "Experiment",
    "Guardrail",
    "Stopping",
    "Variant",
    "config_hash",
    "load_experiment",
    "load_experiments",
]

MAX_FILE_BYTES = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")

MAX_TTL_S = 10 * 365 * 24 * 3600
Weight = Annotated[float, Meta(ge=0.02, le=1e12)]


class Variant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One arm: a ranker known to the router, by name. `share` is its starting share in whole percents."""

    name: str
    ranker: str = ""
    """Defaults to `name`."""
    share: Annotated[int, Meta(ge=0, le=100)] | None = None


class Bandit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How traffic moves, once every variant has enough (`Stopping.least_units`). `fixed` never moves it."""

    policy: Literal["thompson", "top-two", "fixed"] = "thompson"
    floor: Annotated[float, Meta(ge=0, le=0.5)] = 0.05
    """Smallest share of a variant, so that every variant stays measured."""
    prior: tuple[Weight, Weight] = (1.0, 1.0)
    """Beta prior of a rate: (successes, failures)."""
    half_life_s: Annotated[int, Meta(ge=1, le=MAX_TTL_S)] | None = None
    """For rates that drift: evidence so old (event time) counts half as much in the posteriors, which move the
    traffic. Confidence sequences rest on all of it."""
    window_s: Annotated[int, Meta(ge=1, le=MAX_TTL_S)] | None = None
    """The same with a sharp edge: older evidence does not move traffic. Not together with `half_life_s`."""
    min_change: Annotated[int, Meta(ge=1, le=50)] = 2
    """Percentage points by which some share must change before a new allocation is published."""
    reserve: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    """Share of units that the bandit never reaches: they are drawn uniformly, for an honest comparison beside it."""


class Stopping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a verdict is given. `sequential` bounds the share of wrong calls however often somebody looks."""

    rule: Literal["sequential", "bayesian"] = "sequential"
    alpha: Annotated[float, Meta(gt=0, le=0.5)] = 0.05
    """Share of experiments without a difference in which one may ever be called (`sequential`)."""
    planned_effect: Annotated[float, Meta(ge=1e-12, le=1e12)] | None = None
    """Absolute difference that the experiment is planned for; 0.05 for rates. It makes intervals tightest there."""
    rope: Annotated[float, Meta(gt=0, le=1e12)] | None = None
    """Differences up to this (absolute, both ways) do not matter: once all are known to be smaller, `stop`."""
    p_best: Annotated[float, Meta(gt=0.5, lt=1)] = 0.99
    """Probability of being the best that a winner needs (`bayesian`)."""
    expected_loss: Annotated[float, Meta(gt=0, le=1e12)] = 0.001
    """What choosing the winner for good may cost on average, in the metric's unit (both rules)."""
    least_units: Annotated[int, Meta(ge=2)] = 20
    """Effective units every variant needs before traffic moves and before any verdict but `insufficient-data`."""
    least_outcomes: Annotated[int, Meta(ge=1)] = 20
    """The same for impressions with the outcome, and for those without it."""


class Guardrail(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An outcome whose rate per impression must not get worse than the control's by more than `margin` (absolute)."""

    outcome: str
    margin: Annotated[float, Meta(ge=1e-12, le=1)]
    better: Literal["higher", "lower"] = "higher"


class Experiment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named comparison of variants with one primary metric."""

    name: str
    variants: Annotated[tuple[Variant, ...], Meta(min_length=2, max_length=32)]
    control: str = ""
    """Defaults to the first variant."""
    unit: UnitKind = "user"
    primary: str = "click"
    """The outcome that is compared."""
    measure: Literal["rate", "value"] = "rate"
    """`rate`: impressions with the outcome, per impression. `value`: sum of the outcome's values, per impression."""
    guardrails: Annotated[tuple[Guardrail, ...], Meta(max_length=8)] = ()
    aa: bool = False
    """A/A test: the variants are the same on purpose. Nothing is ever shipped; a difference makes it `invalid`."""
    salt: str = ""
    """Changes every unit's place; defaults to the name."""
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    assignment_ttl_s: Annotated[int, Meta(ge=1, le=MAX_TTL_S)] = 30 * 24 * 3600
    segments: Annotated[tuple[str, ...], Meta(max_length=4)] = ()
    """Attributes of requests by whose values the counts are also kept apart (`sluice.domain.segments`)."""
    bandit: Bandit = Bandit()
    stopping: Stopping = Stopping()

    @property
    def planned_effect(self) -> float:
        """The absolute difference planned for; 5 points of a rate where the experiment names none."""
        return self.stopping.planned_effect or 0.05

    @property
    def control_name(self) -> str:
        return self.control or self.variants[0].name

    @property
    def starting_allocation(self) -> dict[str, int]:
        """Variant → whole percents before the first decision; equal shares unless the variants name theirs."""
        if all(variant.share is not None for variant in self.variants):
            return {variant.name: variant.share or 0 for variant in self.variants}
        return self.uniform_allocation

    @property
    def uniform_allocation(self) -> dict[str, int]:
        """Variant → equal whole percents; where they do not divide 100, earlier variants get one more."""
        return equal_percents([variant.name for variant in self.variants])


class _UniqueKeys(yaml.SafeLoader):
    """A key that is written twice is a mistake, not a correction."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def config_hash(experiment: Experiment) -> str:
    """SHA-256 (hex, 16 characters) of the configuration in its canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(experiment, order="deterministic")).hexdigest()[:16]


def load_experiments(text: str, source: str) -> tuple[Experiment, ...]:
    """All experiments of a YAML text: one mapping, or a list of them under `experiments`.

    Raises ConfigError with one line that names `source`, the field, the value and what is allowed.
    """
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{source}: {len(text)} characters exceed the limit of {MAX_FILE_BYTES}")
    try:
        data = yaml.load(text, _UniqueKeys)  # a safe loader
    except (yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise ConfigError(f"{source}: not YAML: {said}") from error
    if isinstance(data, dict) and set(data) == {"experiments"} and isinstance(data["experiments"], list):
        items = [(f"experiments[{index}]", item) for index, item in enumerate(data["experiments"])]
    else:
        items = [("", data)]
    if not items:
        raise ConfigError(f"{source}: experiments: the list is empty")
    experiments = tuple(_validated(item, source, where) for where, item in items)
    names = [experiment.name for experiment in experiments]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{source}: name: {name!r} is used by {names.count(name)} experiments; names are unique")
    return experiments


def load_experiment(data: bytes) -> Experiment:
    """One experiment from its JSON (topic `experiments`). Raises ConfigError."""
    try:
        return _checked(msgspec.json.decode(data, type=Experiment), "record")
    except msgspec.DecodeError as error:
        raise ConfigError(f"record: {error}") from error


def _validated(item: object, source: str, where: str) -> Experiment:
    label = f"{source}: {where}" if where else source
    if not isinstance(item, dict):
        raise ConfigError(f"{label}: expected a mapping with `name` and `variants`, got {type(item).__name__}")
    try:
        experiment = msgspec.convert(item, Experiment)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{label}: {_explain(str(error), item)}") from error
    return _checked(experiment, label)


def _explain(message: str, item: object) -> str:
    """msgspec's message with the path first and the value that stands there."""
    text, _, path = message.partition(" - at `$")
    path = path.rstrip("`")
    if text.startswith("Object contains unknown field"):
        known = ", ".join(_STRUCTS.get(_place(path), Experiment).__struct_fields__)
        return f"{path.lstrip('.')}{': ' if path else ''}{text.removeprefix('Object contains ')}: allowed are {known}"
    value: object = item
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path):
        try:
            value = value[key] if key else value[int(index)]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            return f"{path.lstrip('.')}: {text}"
    if not path:
        return text
    if _place(path) in _CHOICES:
        text = f"allowed are {', '.join(_CHOICES[_place(path)])}"
    return f"{path.lstrip('.')}: {value!r}: {text}"


def _place(path: str) -> str:
    """`.variants[2].share` → `variants.share`"""
    return re.sub(r"\[[^\]]*\]", "", path).lstrip(".")


_STRUCTS: dict[str, type[Struct]] = {
    "variants": Variant,
    "bandit": Bandit,
    "stopping": Stopping,
    "guardrails": Guardrail,
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "unit": get_args(UnitKind),
    "measure": get_args(get_type_hints(Experiment)["measure"]),
    "bandit.policy": get_args(get_type_hints(Bandit)["policy"]),
    "stopping.rule": get_args(get_type_hints(Stopping)["rule"]),
    "guardrails.better": get_args(get_type_hints(Guardrail)["better"]),
}


def _checked(experiment: Experiment, label: str) -> Experiment:
    """Rules that span fields."""
    names = [variant.name for variant in experiment.variants]
    for field, name in [
        ("name", experiment.name),
        *((f"variants[{i}].name", n) for i, n in enumerate(names)),
    ]:
        if not _NAME.match(name):
            raise ConfigError(
                f"{label}: {field}: {name!r}: allowed are 1 to 64 of A-Z a-z 0-9 _ . - , a letter or digit first"
            )
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(f"{label}: variants[{index}].name: {name!r} is used twice; names are unique")
    if experiment.control and experiment.control not in names:
        raise ConfigError(f"{label}: control: {experiment.control!r}: allowed are {', '.join(names)}")
    if not 1 <= len(experiment.primary) <= 64:
        raise ConfigError(f"{label}: primary: {experiment.primary!r}: allowed are 1 to 64 characters")
    shares = [variant.share for variant in experiment.variants]
    if any(share is not None for share in shares):
        if None in shares:
            raise ConfigError(
                f"{label}: variants[{shares.index(None)}].share: missing; give every variant a share or none"
            )
        total = sum(share or 0 for share in shares)
        if total != 100:
            raise ConfigError(f"{label}: variants: shares sum to {total}; they must sum to 100")
        if 0 in shares and experiment.bandit.policy != "fixed":
            # It would never reach `least_units`, and the traffic of all would stay where it is.
            raise ConfigError(
                f"{label}: variants[{shares.index(0)}].share: 0: allowed are 1 to 100; 0 only with policy fixed"
            )
    _check_measures(experiment, label)
    if experiment.bandit.floor * len(names) > 1:
        raise ConfigError(f"{label}: bandit.floor: {experiment.bandit.floor}: allowed is at most 1/{len(names)}")
    _check_segments(experiment, label)
    return experiment


def _check_measures(experiment: Experiment, label: str) -> None:
    outcomes = [guardrail.outcome for guardrail in experiment.guardrails]
    for index, outcome in enumerate(outcomes):
        if not 1 <= len(outcome) <= 64:
            raise ConfigError(f"{label}: guardrails[{index}].outcome: {outcome!r}: allowed are 1 to 64 characters")
        if outcome in outcomes[:index]:
            raise ConfigError(f"{label}: guardrails[{index}].outcome: {outcome!r} is used twice")
    if experiment.measure == "value" and experiment.stopping.planned_effect is None:
        raise ConfigError(
            f"{label}: stopping.planned_effect: missing; `measure: value` needs the difference to plan for, in its unit"
        )
    rule = experiment.bandit
    if rule.half_life_s is not None and rule.window_s is not None:
        raise ConfigError(f"{label}: bandit.window_s: allowed is either `half_life_s` or `window_s`")
    if experiment.measure == "value" and (rule.half_life_s or rule.window_s) is not None:
        raise ConfigError(f"{label}: bandit: `half_life_s` and `window_s` are for rates, not for `measure: value`")


def _check_segments(experiment: Experiment, label: str) -> None:
    for index, key in enumerate(experiment.segments):
        if not _NAME.match(key) or len(key) > MAX_KEY:
            raise ConfigError(
                f"{label}: segments[{index}]: {key!r}: allowed are 1 to {MAX_KEY} of A-Z a-z 0-9 _ . - , "
                "a letter or digit first"
            )
        if key in experiment.segments[:index]:
            raise ConfigError(f"{label}: segments[{index}]: {key!r} is used twice")
