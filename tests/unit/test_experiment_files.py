"""Experiment files as people get them wrong: one line that names the field, the value and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest
import yaml

from sluice.domain.audience import Layer, Rule
from sluice.domain.bucketing import Bucketing
from sluice.domain.experiment import (
    Bandit,
    Experiment,
    Stopping,
    config_hash,
    configuration,
    load_experiment,
    load_experiments,
)
from sluice.domain.status import State
from sluice.errors import ConfigError

TWO = "variants: [{name: a}, {name: b}]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a mapping with `name` and `variants`"),
        ("- a", "expected a mapping with `name` and `variants`"),
        ("experiments: []", "experiments: the list is empty"),
        ("name: x\nvariants:\n\t- a", "not YAML"),
        ("!!python/object:os.system {}", "not YAML"),
        (f"name: x\nname: y\n{TWO}", "not YAML: key 'name' stands there twice line 1, column 1"),
        ("name: x\nvariants: [{name: a, name: c}, {name: b}]", "key 'name' stands there twice"),
        (TWO, "missing required field `name`"),
        (f"name: 5\n{TWO}", "name: 5: Expected `str`"),
        (f"name: é\n{TWO}", "name: 'é': allowed are 1 to 64 of A-Z"),
        (f"name: x\nvaraints: []\n{TWO}", "unknown field `varaints`: allowed are name, variants, control, unit,"),
        (
            "name: x\nvariants: [{name: a}, {name: b, weight: 1}]",
            "variants[1]: unknown field `weight`: allowed are name",
        ),
        (f"name: x\nbandit: {{flor: 0.1}}\n{TWO}", "bandit: unknown field `flor`: allowed are policy, floor, prior"),
        (f"name: x\nunit: planet\n{TWO}", "unit: 'planet': allowed are user, session, slate"),
        (f"name: x\nbandit: {{policy: ucb}}\n{TWO}", "bandit.policy: 'ucb': allowed are thompson, top-two, fixed"),
        (f"name: x\nbandit: {{floor: 0.9}}\n{TWO}", "bandit.floor: 0.9: Expected `float` <= 0.5"),
        (f"name: x\nbandit: {{prior: [.inf, 1]}}\n{TWO}", "bandit.prior[0]: inf: Expected `float` <="),
        (f"name: x\nstopping: {{p_best: .nan}}\n{TWO}", "stopping.p_best: nan"),
        (f"name: x\nseed: 99999999999999999999\n{TWO}", "seed: 99999999999999999999: Expected `int` <="),
        (f"name: x\nassignment_ttl_s: 99999999999\n{TWO}", "assignment_ttl_s: 99999999999: Expected `int` <="),
        (f"name: x\ncontrol: z\n{TWO}", "control: 'z': allowed are a, b"),
        ("name: x\nvariants: [{name: a}]", "variants: [{'name': 'a'}]: Expected `array` of length >= 2"),
        ("name: x\nvariants: [{name: a}, {name: a}]", "variants[1].name: 'a' is used twice"),
        ("name: x\nvariants: [{name: a, share: 50}, {name: b}]", "variants[1].share: missing"),
        ("name: x\nvariants: [{name: a, share: 50}, {name: b, share: 40}]", "shares sum to 90"),
        (
            "name: x\nvariants: [{name: a, share: 0}, {name: b, share: 100}]",
            "variants[0].share: 0: allowed are 1 to 100",
        ),
        (f"name: x\nbandit: {{reserve: 0.6}}\n{TWO}", "bandit.reserve: 0.6: Expected `float` <= 0.5"),
        (f"name: x\nbandit: {{reserve: .nan}}\n{TWO}", "bandit.reserve: nan: Expected `float`"),
        (f"name: x@k=v\n{TWO}", "name: 'x@k=v': allowed are 1 to 64 of"),
        (f"name: x\nsegments: [a, b, c, d, e]\n{TWO}", "Expected `array` of length <= 4"),
        (f"name: x\nsegments: [a, a]\n{TWO}", "segments[1]: 'a' is used twice"),
        (f"name: x\nsegments: ['a=b']\n{TWO}", "segments[0]: 'a=b': allowed are 1 to 40 of"),
        (f"name: x\nsegments: [{'k' * 41}]\n{TWO}", "allowed are 1 to 40 of"),
    ],
)
def test_a_mistake_is_one_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiments(text, "file.yaml")
    message = str(caught.value)
    assert message.startswith("file.yaml: ") and said in message, message
    assert len(message.splitlines()) == 1


def test_what_a_file_may_say_survives_the_topic() -> None:
    """No value that is valid in YAML is lost on the way through JSON."""
    bandit = "bandit: {prior: [0.02, 1.0e+12], floor: 0, reserve: 0.5}"
    rules = "[{attribute: age, operator: at_least, values: [18.5]}, {attribute: c, operator: in, values: [é, 7]}]"
    text = f"name: x\nseed: 9223372036854775807\n{bandit}\nsegments: [age]\ntargeting: {rules}\n{TWO}"
    (experiment,) = load_experiments(text, "file.yaml")
    assert load_experiment(msgspec.json.encode(experiment)) == experiment


def test_the_documented_experiment_shows_every_option_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    small, whole = (load_experiments(block, "page")[0] for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    assert [variant.name for variant in small.variants] == ["random", "affinity"]
    written = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    for part, kind in ((written, Experiment), (written["bandit"], Bandit), (written["stopping"], Stopping),
                       (written["bucketing"], Bucketing)):  # fmt: skip
        assert set(part) == set(kind.__struct_fields__) - {"state"}
    assert whole.bandit == small.bandit
    assert msgspec.structs.replace(whole.stopping, planned_effect=None) == small.stopping
    assert whole.planned_effect == small.planned_effect
    for field in ("targeting", "traffic", "layer", "holdout", "forced", "assignment", "bucketing"):
        assert getattr(whole, field) == getattr(small, field)


def test_the_documented_audience_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    (part,) = re.findall(r"```yaml part\n(.*?)```", page, re.DOTALL)
    (experiment,) = load_experiments(f"name: x\n{TWO}\n{part}", "page")
    assert (experiment.traffic, experiment.layer) == (0.2, Layer(name="checkout-page", range=(0, 0.5)))
    assert {rule.operator for rule in experiment.targeting} | {"not_in"} == set(
        get_args(get_type_hints(Rule)["operator"])
    )


def test_hashes_of_what_was_configured_before_stay_as_they_are() -> None:
    """Recorded before the fields of the audience, and the state, came."""
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    small, whole = (load_experiments(block, "page")[0] for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    assert (config_hash(small), config_hash(whole)) == ("15e06f7c6db3e83e", "f2cdff2c1aa5ba21")
    paused = State(status="paused", revision=7)
    assert config_hash(msgspec.structs.replace(small, state=paused)) == config_hash(small)
    assert config_hash(msgspec.structs.replace(small, traffic=0.5)) != config_hash(small)
    assert msgspec.convert(configuration(whole), Experiment) == whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("guardrails: [{outcome: error}]", "Object missing required field `margin`"),
        ("guardrails: [{outcome: error, margin: 0}]", "guardrails[0].margin: 0"),
        (
            "guardrails: [{outcome: e, margin: 0.1, better: big}]",
            "guardrails[0].better: 'big': allowed are higher, lower",
        ),
        (
            "guardrails: [{outcome: e, margin: 0.1}, {outcome: e, margin: 0.2}]",
            "guardrails[1].outcome: 'e' is used twice",
        ),
        ("measure: money", "measure: 'money': allowed are rate, value"),
        ("measure: value", "stopping.planned_effect: missing"),
        ("bandit: {half_life_s: 5, window_s: 5}", "bandit.window_s: allowed is either"),
        (
            "{measure: value, stopping: {planned_effect: 1}, bandit: {window_s: 5}}",
            "are for rates, not for `measure: value`",
        ),
        ("stopping: {rule: gut}", "stopping.rule: 'gut': allowed are sequential, bayesian"),
        ("unit: impression", "unit: 'impression': allowed are user, session, slate; the impressions of one request"),
        ("traffic: 1.5", "traffic: 1.5: Expected `float` <= 1.0"),
        ("traffic: .nan", "traffic: nan"),
        ("layer: {name: l, range: [0.5, 0.5]}", "layer.range: [0.5, 0.5]: allowed is [from, to] with from < to"),
        ("layer: {name: l, range: [0, 50]}", "layer.range[1]: 50: Expected"),
        ("layer: {name: l, part: 1}", "layer: unknown field `part`: allowed are name, range"),
        ("holdout: {name: h, share: 0.9}", "holdout.share: 0.9: Expected"),
        (
            "targeting: [{attribute: a, operator: like, values: [x]}]",
            "targeting[0].operator: 'like': allowed are in, not_in, at_least, below",
        ),
        ("targeting: [{attribute: a, operator: in, values: []}]", "targeting[0].values: []: Expected `array`"),
        ("targeting: [{attribute: a, operator: in, values: [1.5]}]", "targeting[0].values[0]: 1.5: `in` takes text"),
        (f"targeting: [{{attribute: a, operator: in, values: [{10**20}]}}]", "targeting[0].values[0]: 1000"),
        ("targeting: [{attribute: a, operator: in, values: [yes]}]", "targeting[0].values[0]: True: Expected"),
        ("targeting: [{attribute: a, operator: below, values: [x]}]", "targeting[0].values[0]: 'x': `below` takes a"),
        ("targeting: [{attribute: a, operator: below, values: [.inf]}]", "targeting[0].values[0]: inf: `below` takes"),
        (
            "targeting: [{attribute: a, operator: below, values: [1, 2]}]",
            "targeting[0].values: 2 values: `below` takes",
        ),
        (f"targeting: [{', '.join(['{attribute: a, operator: in, values: [x]}'] * 17)}]", "targeting: "),
        ("forced: [{variant: c, units: [u]}]", "forced[0].variant: 'c': allowed are a, b"),
        ("forced: [{variant: a}]", "forced[0]: give either `units` or `when`"),
        (
            "forced: [{variant: a, when: [{attribute: a, operator: is, values: [x]}]}]",
            "forced[0].when[0].operator: 'is': allowed are in",
        ),
        (
            "{assignment: rollout, variants: [{name: a}, {name: b}, {name: c}]}",
            "assignment: 'rollout': for two variants, not 3",
        ),
        ("{assignment: rollout, bandit: {reserve: 0.1}}", "bandit.reserve: 0.1: not with `assignment: rollout`"),
        ("assignment: random", "assignment: 'random': allowed are sticky, rollout"),
        ("bucketing: {algorithm: md5}", "bucketing.algorithm: 'md5': allowed are sluice, growthbook-v1"),
        ("bucketing: {algorithm: split, seed: x}", "bucketing: "),
        ("state: {status: paused}", "state: not for files; `sluice experiment start|pause|stop|ship` sets it"),
    ],
)
def test_a_mistake_in_what_is_measured_is_one_line(text: str, said: str) -> None:
    parts = yaml.safe_load(text)
    with pytest.raises(ConfigError) as caught:
        load_experiments(yaml.safe_dump({"name": "x", **yaml.safe_load(TWO), **parts}), "file")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("layer: {name: l, range: [0, 0.5]}", "layer: {name: l, range: [0.4, 1]}",
         "layer.range: x [0, 0.5) and y [0.4, 1) of layer 'l' overlap"),
        ("layer: {name: l, range: [0, 0.5]}", "{unit: slate, layer: {name: l, range: [0.5, 1]}}",
         "layer: x (user) and y (slate) of layer 'l' must randomise the same unit"),
        ("holdout: {name: h, share: 0.1}", "holdout: {name: h, share: 0.2}",
         "holdout.share: x holds 0.1 of 'h' out and y 0.2"),
    ],
)  # fmt: skip
def test_what_cannot_run_together_is_refused_naming_both(first: str, second: str, said: str) -> None:
    def file(*parts: str) -> str:
        rows = [{"name": n, **yaml.safe_load(TWO), **yaml.safe_load(p)} for n, p in zip("xy", parts, strict=True)]
        return yaml.safe_dump({"experiments": rows})

    with pytest.raises(ConfigError) as caught:
        load_experiments(file(first, second), "file")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    apart = "{layer: {name: l, range: [0.5, 1]}, holdout: {name: h, share: 0.1}}"
    assert len(load_experiments(file("layer: {name: l, range: [0, 0.5]}", apart), "file")) == 2
