"""An experiment as people write it: YAML in, a validated frozen struct out.

Libraries: PyYAML (safe loader), msgspec.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterable
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
import yaml
from msgspec import Meta, Struct

from sluice.domain.allocation import equal_percents
from sluice.domain.audience import MAX_RULES, Forced, Holdout, Layer, Rule, Share, problem_between, problem_with
from sluice.domain.bucketing import ALGORITHMS, AlgorithmName, Bucketing, Gate, drawing
from sluice.domain.canary import Canary, CanaryStep, HardLimit, problem_in
from sluice.domain.events import UnitKind
from sluice.domain.experiment_parts import MAX_TTL_S, Bandit, Guardrail, Shadow, Stopping, Variant
from sluice.domain.segments import MAX_KEY
from sluice.domain.status import State
from sluice.errors import ConfigError

__all__ = [
    "Bandit",
    "Experiment",
    "Guardrail",
    "Stopping",
    "Variant",
    "check_together",
    "config_hash",
    "configuration",
    "load_experiment",
    "load_experiments",
]

MAX_FILE_BYTES = 1_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


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
    targeting: Annotated[tuple[Rule, ...], Meta(max_length=MAX_RULES)] = ()
    """Rules on attributes of requests; where one does not hold, the unit is outside."""
    traffic: Share = 1.0
    """Share of the eligible units that takes part. Growing it keeps everybody who does."""
    layer: Layer | None = None
    holdout: Holdout | None = None
    forced: Annotated[tuple[Forced, ...], Meta(max_length=MAX_RULES)] = ()
    assignment: Literal["sticky", "rollout"] = "sticky"
    """`sticky`: a unit keeps its variant, and only new units follow new shares. `rollout`, for two variants: all units
    follow, and only as many move as must; a moved unit stays in its first variant for the evidence."""
    bucketing: Bucketing = Bucketing()
    """How units are placed: Sluice's own way, or that of another tool, bit for bit."""
    canary: Canary | None = None
    """Two variants, of which the one beside the control gets more traffic step by step, or none any more."""
    shadow: Annotated[tuple[Shadow, ...], Meta(max_length=4)] = ()
    """Models that score every ranking request beside the variant that is shown."""
    rankings: bool = False
    """Log what every request knew and showed (`sluice.domain.rankings`): for drift and for training from the log."""
    state: State = State()
    """Written by `sluice experiment start|pause|stop|ship`, and no part of the configuration."""

    @property
    def planned_effect(self) -> float:
        """The absolute difference planned for; 5 points of a rate where the experiment names none."""
        return self.stopping.planned_effect or 0.05

    @property
    def rankers(self) -> dict[str, str]:
        """Variant → the rule or the model that ranks for it."""
        return {variant.name: variant.ranker or variant.name for variant in self.variants}

    @property
    def models(self) -> dict[str, str]:
        """The same, of the variants that are models."""
        return {name: ranker for name, ranker in self.rankers.items() if ranker.startswith("models:/")}

    @property
    def control_name(self) -> str:
        return self.control or self.variants[0].name

    @property
    def starting_allocation(self) -> dict[str, int]:
        """Variant → whole percents before the first decision; equal shares unless the variants name theirs.

        Of a canary: those of its first step.
        """
        if self.canary is not None:
            return self.canary_allocation(self.canary.steps[0].share)
        if all(variant.share is not None for variant in self.variants):
            return {variant.name: variant.share or 0 for variant in self.variants}
        return self.uniform_allocation

    def canary_allocation(self, share: int) -> dict[str, int]:
        """Variant → whole percents when the candidate of a canary, the variant beside the control, gets `share`."""
        return {variant.name: 100 - share if variant.name == self.control_name else share for variant in self.variants}

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Every outcome that something is decided on, each once: the primary first, guardrails, hard limits."""
        limits = self.canary.limits if self.canary is not None else ()
        return tuple(
            dict.fromkeys((self.primary, *(rail.outcome for rail in self.guardrails), *(one.outcome for one in limits)))
        )

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


_LATER = {
    field.name: field.default
    for field in msgspec.structs.fields(Experiment)
    if field.name
    in (
        "targeting",
        "traffic",
        "layer",
        "holdout",
        "forced",
        "assignment",
        "bucketing",
        "canary",
        "shadow",
        "rankings",
    )
}
"""Fields that came later, with their defaults: where nothing else is said, what was hashed before hashes the same"""


def configuration(experiment: Experiment) -> dict[str, Any]:
    """What was configured, without the state: the part of an experiment that evidence belongs to."""
    told: dict[str, Any] = msgspec.to_builtins(experiment)
    del told["state"]
    for name, default in _LATER.items():
        if getattr(experiment, name) == default:
            del told[name]
    for variant in told["variants"]:
        if not variant["fallback"]:
            del variant["fallback"]
    return told


def config_hash(experiment: Experiment) -> str:
    """SHA-256 (hex, 16 characters) of `configuration` in its canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(configuration(experiment))).hexdigest()[:16]


def check_together(experiments: Iterable[Experiment], label: str) -> None:
    """Raises ConfigError, naming both, when two experiments cannot run beside each other."""
    checked: list[tuple[str, str, Layer | None, Holdout | None]] = []
    for experiment in experiments:
        if experiment.layer is None and experiment.holdout is None:
            continue
        this = (experiment.name, experiment.unit, experiment.layer, experiment.holdout)
        for other in checked:
            problem = problem_between(other, this)
            if problem is not None:
                raise ConfigError(f"{label}: {problem}")
        checked.append(this)


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
    check_together(experiments, source)
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
    if "state" in item:
        raise ConfigError(f"{label}: state: not for files; `sluice experiment start|pause|stop|ship` sets it")
    if item.get("canary") is not None:
        # What a canary needs is what it gets where nothing else is written.
        item = {"bandit": {}, "assignment": "rollout", **item}
        if isinstance(item["bandit"], dict):
            item["bandit"] = {"policy": "fixed", **item["bandit"]}
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
    if (path, value) == (".unit", "impression"):
        text += "; the impressions of one request share their variant: `slate`"
    return f"{path.lstrip('.')}: {value!r}: {text}"


def _place(path: str) -> str:
    """`.variants[2].share` → `variants.share`"""
    return re.sub(r"\[[^\]]*\]", "", path).lstrip(".")


_STRUCTS: dict[str, type[Struct]] = {
    "variants": Variant,
    "bandit": Bandit,
    "stopping": Stopping,
    "guardrails": Guardrail,
    "targeting": Rule,
    "layer": Layer,
    "holdout": Holdout,
    "forced": Forced,
    "forced.when": Rule,
    "bucketing": Bucketing,
    "bucketing.gates": Gate,
    "shadow": Shadow,
    "canary": Canary,
    "canary.steps": CanaryStep,
    "canary.limits": HardLimit,
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "unit": get_args(UnitKind),
    "measure": get_args(get_type_hints(Experiment)["measure"]),
    "bandit.policy": get_args(get_type_hints(Bandit)["policy"]),
    "stopping.rule": get_args(get_type_hints(Stopping)["rule"]),
    "guardrails.better": get_args(get_type_hints(Guardrail)["better"]),
    "targeting.operator": get_args(get_type_hints(Rule)["operator"]),
    "forced.when.operator": get_args(get_type_hints(Rule)["operator"]),
    "assignment": get_args(get_type_hints(Experiment)["assignment"]),
    "bucketing.algorithm": get_args(get_type_hints(Bucketing)["algorithm"]),
    "bucketing.gates.algorithm": get_args(AlgorithmName),
    "canary.on_longest": get_args(get_type_hints(Canary)["on_longest"]),
}


def _checked(experiment: Experiment, label: str) -> Experiment:
    """Rules that span fields."""
    names = [variant.name for variant in experiment.variants]
    for field, name in [
        ("name", experiment.name),
        *((f"variants[{i}].name", n) for i, n in enumerate(names)),
        *((f"shadow[{i}].name", shadow.name) for i, shadow in enumerate(experiment.shadow)),
    ]:
        if not _NAME.match(name):
            raise ConfigError(
                f"{label}: {field}: {name!r}: allowed are 1 to 64 of A-Z a-z 0-9 _ . - , a letter or digit first"
            )
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(f"{label}: variants[{index}].name: {name!r} is used twice; names are unique")
    for index, shadow in enumerate(experiment.shadow):
        if shadow.name in (*names, *(other.name for other in experiment.shadow[:index])):
            raise ConfigError(f"{label}: shadow[{index}].name: {shadow.name!r} is used twice; names are unique")
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
    if experiment.canary is not None:
        _check_canary(experiment, experiment.canary, label)
    _check_audience(experiment, label)
    if experiment.rankings and not experiment.models:
        raise ConfigError(f"{label}: rankings: true: needs a variant that is a model (ranker: models:/NAME@ALIAS)")
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


def _check_audience(experiment: Experiment, label: str) -> None:
    names = [variant.name for variant in experiment.variants]
    lists = [("targeting", experiment.targeting)]
    for index, entry in enumerate(experiment.forced):
        if entry.variant not in names:
            raise ConfigError(f"{label}: forced[{index}].variant: {entry.variant!r}: allowed are {', '.join(names)}")
        if bool(entry.units) == bool(entry.when):
            raise ConfigError(f"{label}: forced[{index}]: give either `units` or `when`")
        lists.append((f"forced[{index}].when", entry.when))
    for field, rules in lists:
        problem = problem_with(rules)
        if problem is not None:
            raise ConfigError(f"{label}: {field}{problem}")
    layer = experiment.layer
    if layer is not None and not layer.range[0] < layer.range[1]:
        raise ConfigError(f"{label}: layer.range: {list(layer.range)}: allowed is [from, to] with from < to")
    if experiment.assignment == "rollout" and len(names) != 2:
        raise ConfigError(f"{label}: assignment: 'rollout': for two variants, not {len(names)}")
    if experiment.assignment == "rollout" and experiment.bandit.reserve:
        raise ConfigError(f"{label}: bandit.reserve: {experiment.bandit.reserve:g}: not with `assignment: rollout`")
    try:
        drawing(experiment.bucketing, experiment.starting_allocation, experiment.salt or experiment.name)
        for gate in experiment.bucketing.gates:
            ALGORITHMS[gate.algorithm or experiment.bucketing.algorithm].hasher(gate.seed)
    except ConfigError as error:
        raise ConfigError(f"{label}: bucketing: {error}") from error


def _check_canary(experiment: Experiment, canary: Canary, label: str) -> None:
    if len(experiment.variants) != 2:
        raise ConfigError(f"{label}: canary: for two variants, control and candidate, not {len(experiment.variants)}")
    if experiment.aa:
        raise ConfigError(f"{label}: aa: not with `canary`, which ships what is not worse")
    if any(variant.share is not None for variant in experiment.variants):
        raise ConfigError(f"{label}: variants: no shares with `canary`, whose steps say them")
    if experiment.bandit.policy != "fixed" or experiment.bandit.reserve:
        raise ConfigError(
            f"{label}: bandit: with `canary`, which moves the traffic, allowed is policy fixed, reserve 0"
        )
    if experiment.assignment != "rollout":
        raise ConfigError(
            f"{label}: assignment: {experiment.assignment!r}: with `canary` allowed is rollout: a unit that keeps its "
            "variant could not be rolled back"
        )
    problem = problem_in(canary, experiment.measure)
    if problem is not None:
        raise ConfigError(f"{label}: canary.{problem}")
