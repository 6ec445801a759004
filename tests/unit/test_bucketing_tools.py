"""Every tool's published numbers come out; weights cut where the tool cuts them, on either side of every bound."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.allocation import choose
from sluice.domain.bucketing import (
    ALGORITHMS,
    AlgorithmName,
    Bucketing,
    Gate,
    bucket,
    drawing,
    growthbook,
    hashes,
    number,
    place,
    told,
)
from sluice.domain.bucketing.algorithms import picker
from sluice.errors import ConfigError

# Source and licence stand in the file.
GROWTHBOOK: dict[str, list[Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "growthbook_cases.json").read_text()
)
NAMES: tuple[AlgorithmName, ...] = get_args(AlgorithmName)
SEEDS = {name: "467569525" if name.startswith("split") else "a-seed" for name in NAMES}


@pytest.mark.parametrize("case", GROWTHBOOK["hash"], ids=str)
def test_growthbook_hashes(case: list[Any]) -> None:
    seed, unit, version, expected = case
    if expected is None:  # version 99 does not exist
        assert f"growthbook-v{version}" not in ALGORITHMS
    elif version == 1:
        assert told("growthbook-v1", seed, unit) == expected
    else:
        assert told("growthbook-v2", seed, unit) == place("growthbook-v2", seed, unit) == expected


@pytest.mark.parametrize("case", GROWTHBOOK["getBucketRange"], ids=lambda case: case[0])
def test_growthbook_bucket_ranges(case: list[Any]) -> None:
    _, (count, coverage, weights), expected = case
    ranges = growthbook.bucket_ranges(count, coverage, weights)
    assert len(ranges) == len(expected)
    for found, wanted in zip(ranges, expected, strict=True):
        assert found == pytest.approx(wanted)


@pytest.mark.parametrize("case", GROWTHBOOK["chooseVariation"], ids=lambda case: case[0])
def test_growthbook_choice_in_ranges(case: list[Any]) -> None:
    _, n, ranges, expected = case
    assert growthbook.choose_variation(n, ranges) == expected


@pytest.mark.parametrize("case", GROWTHBOOK["inNamespace"], ids=lambda case: case[0])
def test_growthbook_namespaces_are_gates(case: list[Any]) -> None:
    _, unit, (namespace, start, end), expected = case
    gate = Gate(algorithm="growthbook-v1", seed=f"__{namespace}", ranges=((start, end),))
    draw = drawing(Bucketing(algorithm="growthbook-v2", gates=(gate,)), {"a": 100})
    assert (draw(unit) is not None) is expected


@pytest.mark.parametrize("case", GROWTHBOOK["getEqualWeights"], ids=str)
def test_growthbook_equal_weights(case: list[Any]) -> None:
    count, expected = case
    assert growthbook.equal_weights(count) == pytest.approx(expected)


@pytest.mark.parametrize("case", GROWTHBOOK["run"], ids=lambda case: case[0])
def test_growthbook_experiments_run_the_same(case: list[Any]) -> None:
    _, context, experiment, variation, included, _ = case
    gates = [
        Gate(algorithm="growthbook-v2", seed=one["seed"], ranges=tuple((a, b) for a, b in one["ranges"]))
        for one in experiment.get("filters", [])
    ]
    if "namespace" in experiment and not gates:  # filters replace the namespace
        namespace, start, end = experiment["namespace"]
        gates = [Gate(algorithm="growthbook-v1", seed=f"__{namespace}", ranges=((start, end),))]
    count = len(experiment["variations"])
    weights = experiment.get("weights") or [1 / count] * count
    draw = drawing(
        Bucketing(
            algorithm="growthbook-v2" if experiment.get("hashVersion") == 2 else "growthbook-v1",
            seed=experiment.get("seed", experiment["key"]),
            coverage=experiment.get("coverage", 1.0),
            gates=tuple(gates),
        ),
        {str(value): 100 * weight for value, weight in zip(experiment["variations"], weights, strict=True)},
    )
    assert draw(context["attributes"]["id"]) == (str(variation) if included else None)


def test_growthbook_walks_over_utf16_code_units() -> None:
    # FNV-1a with `hval ^= charCodeAt(i)`, by hand: "é" is 0xE9, "😀" is 0xD83D 0xDE00.
    by_hand = 0x811C9DC5
    for code_unit in (0xE9, 0xD83D, 0xDE00):
        by_hand = (by_hand ^ code_unit) * 0x01000193 % 2**32
    assert hashes.fnv1a_32("é😀") == by_hand


@pytest.mark.parametrize(
    ("unit", "seed", "expected"),
    [
        # optimizely/python-sdk, tests/test_bucketing.py, test_bucket_number
        ("ppid1", "1886780721", 5254),
        ("ppid2", "1886780721", 4299),
        ("ppid2", "1886780722", 2434),
        ("ppid3", "1886780721", 5439),
        (
            "a very very very very very very very very very very very very very very very long ppd string",
            "1886780721",
            6128,
        ),
    ],
)
def test_optimizely_buckets(unit: str, seed: str, expected: int) -> None:
    assert told("optimizely", seed, unit) == expected
    assert place("optimizely", seed, unit) == expected / 10_000


@given(st.integers(0, 2**32 - 1))
def test_optimizely_scales_in_integers_as_in_doubles(hashed: int) -> None:
    # optimizely/python-sdk, optimizely/bucketer.py: floor(hash / 2^32 * 10000), all in doubles
    assert (hashed * 10_000) >> 32 == int(float(hashed) / 2.0**32 * 10_000)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        # splitio/java-client, client/src/main/resources/murmur3-sample-data-v2.csv (seed, key, hash, bucket)
        ("aUfEsdPN1twuEjff9Sl", 52),
        ("EPxM1cYQnL4AuqD", 79),
        ("ddUcCegzwUCJmX5", 43),
        ("r2aBPo6EbsP3Z4QRuHu", 1),
        ("4I7VfKAiVNJmeVlcI", 99),
        # splitio/php-client, tests/files/murmur3-sample-double-treatment-users.csv
        ("fecd1620-2189-0136-d4ba-0242ac11150f", 100),
        ("a6c76990-fa22-0135-a48a-0242ac112c0c", 1),
        ("211cc9c0-4154-0135-021e-0242ac112609", 79),
    ],
)
def test_split_buckets(unit: str, expected: int) -> None:
    assert told("split", "467569525", unit) == expected
    assert place("split", "467569525", unit) == (expected - 1) / 100


@pytest.mark.parametrize(
    ("seed", "unit", "expected"),
    [
        # splitio/python-client, tests/engine/files/sample-data.jsonl (seed, key, hash, bucket)
        ("973529038", "oHDuTSey2rdeIP2P", 72),
        ("-1271841407", "9RZICEV7mvMA3UWizzMJoxEFIc", 21),
        ("-1319915559", "dw68EoGTS1WHM40LmVymzKBv", 4),
        ("-818122759", "XrhKlQYvxk5QxjYCC3UsI", 25),
        ("-163848293",
         "9E7gTasNAyzAwGNuCJpNoiqAUX5j1QtRivnWQyNPRc7C1QBeniYk5MEqDudv7mxtUETEg6ceVvTp4CfjbuS8teY0Z1uNih8vA2OzXMyDiybGg5",
         100),
        ("-1141859142", "r4D1ZfFuWLfd91yZ7C8TRmg48AGfkmpcSAV5ZEz3DL1Ac8j6FjIqnnCa77HO", 1),
    ],
)  # fmt: skip
def test_split_legacy_buckets(seed: str, unit: str, expected: int) -> None:
    assert told("split-legacy", seed, unit) == expected


@pytest.mark.parametrize(
    ("bucketed", "variant"),
    # splitio/python-client, tests/engine/test_splitter.py, test_treatment_for_bucket
    [(1, "a"), (50, "a"), (51, "b"), (100, "b")],
)
def test_split_takes_the_upper_bound_in(bucketed: int, variant: str) -> None:
    assert "ab"[picker(Bucketing(algorithm="split"), [50, 50])(bucketed)] == variant


@pytest.mark.parametrize(
    ("seed", "unit", "expected"),
    [
        # launchdarkly/python-server-sdk, ldclient/testing/impl/test_evaluator_bucketing.py: key.salt, then seed
        ("hashKey.saltyA", "userKeyA", 0.42157587),
        ("hashKey.saltyA", "userKeyB", 0.6708485),
        ("hashKey.saltyA", "userKeyC", 0.10343106),
        ("hashKey.saltyA", "33333", 0.54771423),
        ("61", "userKeyA", 0.09801207),
        ("61", "userKeyB", 0.14483777),
        ("61", "userKeyC", 0.9242641),
    ],
)
def test_launchdarkly_buckets(seed: str, unit: str, expected: float) -> None:
    assert told("launchdarkly", seed, unit) == pytest.approx(expected)


def test_launchdarkly_weights_are_hundred_thousandths_and_the_end_is_excluded() -> None:
    # The same file, test_variation_index_is_returned_for_bucket: the middle variation holds one bucket of 100,000.
    at = int(told("launchdarkly", "key.salt", "userkey") * 100_000)
    assert 0 < at < 99_999
    weights = {"below": at / 1000, "this": 0.001, "above": (99_999 - at) / 1000}
    assert drawing(Bucketing(algorithm="launchdarkly", seed="key.salt"), weights)("userkey") == "this"


def test_launchdarkly_widths_are_the_doubles_of_its_weights() -> None:
    # ldclient/impl/evaluator_common.py: `sum += wv.weight / 100000.0`; 33.333 / 100 is not always that double.
    width = ALGORITHMS["launchdarkly"].width
    assert all(width(weight / 1000) == weight / 100000.0 for weight in range(0, 100_001, 7))


@pytest.mark.parametrize("algorithm", ["planout", "launchdarkly"])
def test_the_largest_sha1_bucket_is_one_and_belongs_to_the_last_variant(algorithm: AlgorithmName) -> None:
    # launchdarkly/python-server-sdk, ldclient/impl/evaluator_common.py: "put the context in the last bucket"
    assert ALGORITHMS[algorithm].told(2**60 - 1) == 1.0
    assert ALGORITHMS[algorithm].place(2**60 - 1) < 1
    assert picker(Bucketing(algorithm=algorithm), [33, 33, 34])(2**60 - 1) == 2


@pytest.mark.parametrize(
    ("salt", "unit", "choices", "index"),
    [
        # facebookarchive/planout, python/planout/test/test_assignment.py: UniformChoice is hash modulo choices
        ("test_salt.foo", "4", 2, 1),
        ("test_salt.bar", "4", 2, 0),
        ("test_salt.baz", "4", 2, 0),
        ("test_salt.foo", "4", 8, 7),
        # python/planout/test/test_interpreter.py: 320 = choice 10 of [1, 10] times choice 32 of [8, 16, 32, 64]
        ("foo.group_size", "123454", 2, 1),
        ("foo.ratings_per_user_goal", "123454", 4, 2),
    ],
)
def test_planout_hashes(salt: str, unit: str, choices: int, index: int) -> None:
    assert number("planout", salt, unit) % choices == index


def test_planout_bernoulli_trial() -> None:
    # The same file: `specific_goal` is a BernoulliTrial with p = 0.8, and 1.
    assert told("planout", "foo.specific_goal", "123454") <= 0.8


@pytest.mark.parametrize(
    ("text", "expected"),
    # Eppo-exp/python-sdk, test/sharders_test.py; what is hashed there is all of the text, as salt-unit is here
    [("test-input", 5619)],
)
def test_eppo_shards(text: str, expected: int) -> None:
    salt, _, unit = text.partition("-")
    assert told("eppo", salt, unit) == expected


@pytest.mark.parametrize(
    ("variant", "units"),
    # Eppo-exp/sdk-test-data, ufc/flags-v1.json and ufc/tests/test-case-integer-flag.json: allocation "50/50 split"
    [("one", ["5", "7", "8", "11", "12", "14"]),
     ("two", ["charlie", "1", "2", "3", "4", "6", "9", "10", "13", "15"])],
)  # fmt: skip
def test_eppo_variants(variant: str, units: Sequence[str]) -> None:
    draw = drawing(Bucketing(algorithm="eppo", seed="split-numeric-flag-some-allocation"), {"one": 50, "two": 50})
    assert [draw(unit) for unit in units] == [variant] * len(units)


percents = st.lists(st.integers(0, 20), min_size=1, max_size=8).map(
    lambda steps: [*steps[:-1], 100 - sum(steps[:-1])] if sum(steps[:-1]) <= 100 else [100]
)


def _as_the_tool(algorithm: AlgorithmName, integer: int, shares: Sequence[int]) -> int | None:
    """The loop of each tool's SDK, as it is published."""
    sums: list[float]
    match algorithm:
        case "sluice":
            sums, inclusive, at = [*accumulate(shares)], False, integer * 2.0**-53 * 100
        case "growthbook-v1" | "growthbook-v2":
            sums = [*accumulate([share / 100 for share in shares], initial=0.0)][1:]
            inclusive, at = False, integer / (1000 if algorithm == "growthbook-v1" else 10_000)
        case "planout":
            total = 0.0 + sum(shares)
            sums, inclusive, at = (
                [*accumulate(shares)],
                True,
                0.0 + (total - 0.0) * (integer / float(0xFFFFFFFFFFFFFFF)),
            )
        case "launchdarkly":
            sums = [*accumulate([share * 1000 / 100000.0 for share in shares], initial=0.0)][1:]
            inclusive, at = False, integer / float(0xFFFFFFFFFFFFFFF)
        case "optimizely" | "eppo":
            sums, inclusive, at = [*accumulate([share * 100 for share in shares])], False, integer
        case "split" | "split-legacy":
            sums, inclusive, at = [*accumulate(shares)], True, integer
    for index, upper in enumerate(sums):
        if at < upper or (inclusive and at == upper):
            return index
    return len(shares) - 1 if algorithm == "launchdarkly" else None


@pytest.mark.parametrize("algorithm", NAMES)
@given(shares=percents, data=st.data())
def test_whole_percents_cut_where_the_tool_cuts(
    algorithm: AlgorithmName, shares: list[int], data: st.DataObject
) -> None:
    rule = ALGORITHMS[algorithm]
    pick = picker(Bucketing(algorithm=algorithm), shares)
    edges = {rule.first + rule.buckets * upper // 100 + by for upper in [0, *accumulate(shares)] for by in (-1, 0, 1)}
    some = data.draw(st.lists(st.integers(rule.first, rule.first + rule.buckets - 1), max_size=5))
    for integer in [*edges, *some]:
        if rule.first <= integer < rule.first + rule.buckets:
            index = pick(integer)
            assert (index if 0 <= index < len(shares) else None) == _as_the_tool(algorithm, integer, shares), integer


def test_growthbook_sums_are_those_of_doubles() -> None:
    # 0.1 + 0.2 is a little more than 0.3, so bucket 0.3 is still in the second variation, as it is in the SDKs.
    pick = picker(Bucketing(algorithm="growthbook-v1"), [10, 20, 70])
    assert [pick(99), pick(100), pick(300), pick(301), pick(999)] == [0, 1, 1, 2, 2]


@given(unit=st.text(st.characters(codec="utf-8"), min_size=1), shares=percents)
def test_sluice_draws_as_it_always_did(unit: str, shares: list[int]) -> None:
    weights = {f"v{index}": share for index, share in enumerate(reversed(shares))}
    assert drawing(Bucketing(), weights, salt="demo")(unit) == choose(weights, bucket("demo", unit))
    assert told("sluice", "demo", unit) == place("sluice", "demo", unit) == bucket("demo", unit)


@pytest.mark.parametrize("algorithm", NAMES)
@given(unit=st.text(st.characters(codec="utf-8")))
def test_buckets_and_places_stay_in_their_range(algorithm: AlgorithmName, unit: str) -> None:
    rule, seed = ALGORITHMS[algorithm], SEEDS[algorithm]
    assert rule.first <= number(algorithm, seed, unit) < rule.first + rule.buckets
    assert 0 <= place(algorithm, seed, unit) < 1


@pytest.mark.parametrize("algorithm", NAMES)
def test_units_spread_as_the_weights_say(algorithm: AlgorithmName) -> None:
    draw = drawing(Bucketing(algorithm=algorithm, seed=SEEDS[algorithm]), {"b": 20, "a": 30, "c": 50})
    drawn = [draw(f"user-{index}") for index in range(20_000)]
    for variant, share in {"b": 0.2, "a": 0.3, "c": 0.5}.items():
        assert abs(drawn.count(variant) - 20_000 * share) < 5 * (20_000 * share * (1 - share)) ** 0.5


def test_tools_take_variants_as_they_come_and_sluice_by_name() -> None:
    one, other = {"b": 30, "a": 70}, {"a": 70, "b": 30}
    units = [str(index) for index in range(200)]
    for algorithm in NAMES:
        seeded = Bucketing(algorithm=algorithm, seed=SEEDS[algorithm])
        same = [*map(drawing(seeded, one), units)] == [*map(drawing(seeded, other), units)]
        assert same is (algorithm == "sluice")


def test_gates_leave_the_variant_alone() -> None:
    open_to_all = drawing(Bucketing(algorithm="eppo", seed="split"), {"a": 50, "b": 50})
    gate = Gate(seed="traffic", ranges=((0.0, 0.2), (0.6, 1.0)))
    gated = drawing(Bucketing(algorithm="eppo", seed="split", gates=(gate,)), {"a": 50, "b": 50})
    for index in range(500):
        unit = f"u{index}"
        shard = told("eppo", "traffic", unit)
        assert gated(unit) == (open_to_all(unit) if shard < 2000 or shard >= 6000 else None)


def test_gates_are_half_open() -> None:
    at = place("optimizely", "group", "u1")
    for ranges, through in [(((at, 1.0),), True), (((0.0, at),), False)]:
        draw = drawing(Bucketing(algorithm="optimizely", gates=(Gate(seed="group", ranges=ranges),)), {"a": 100})
        assert (draw("u1") == "a") is through


def test_the_salt_is_the_seed_where_none_is_given() -> None:
    weights, units = {"a": 50, "b": 50}, [str(index) for index in range(100)]
    by_salt = drawing(Bucketing(algorithm="eppo"), weights, salt="one")
    by_seed = drawing(Bucketing(algorithm="eppo", seed="one"), weights, salt="other")
    assert [*map(by_salt, units)] == [*map(by_seed, units)]


@pytest.mark.parametrize(
    ("bucketing", "weights", "message"),
    [
        (Bucketing(), {}, "weights: none: percents ≥ 0 that sum to 100"),
        (Bucketing(), {"a": 50, "b": 49}, "a=50, b=49"),
        (Bucketing(), {"a": 150, "b": -50}, "percents ≥ 0"),
        (Bucketing(), {"a": float("nan"), "b": 50}, "percents ≥ 0"),
        (Bucketing(), {"a": 33.3, "b": 66.7}, "a=33.3: sluice has multiples of 1 percent"),
        (Bucketing(algorithm="eppo"), {"a": 33.333, "b": 66.667}, "eppo has multiples of 0.01 percent"),
        (Bucketing(algorithm="split", seed="abc"), {"a": 100}, "'abc': Split seeds its hash with a whole number"),
        (Bucketing(algorithm="split-legacy", seed="4294967296"), {"a": 100}, "whole number of 32 bits"),
        (Bucketing(algorithm="optimizely", coverage=0.5), {"a": 100}, "coverage: 0.5: only GrowthBook"),
        (Bucketing(gates=(Gate(seed="x", ranges=((0.5, 0.5),)),)), {"a": 100}, "nobody lies there"),
    ],
)
def test_what_a_tool_cannot_have(bucketing: Bucketing, weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        drawing(bucketing, weights)


def test_a_configuration_reads_as_it_is_written() -> None:
    written = {
        "algorithm": "growthbook-v2",
        "seed": "my-test",
        "gates": [{"algorithm": "growthbook-v1", "seed": "__checkout", "ranges": [[0, 0.4]]}],
    }
    read = msgspec.convert(written, Bucketing)
    assert read.gates[0].ranges == ((0.0, 0.4),)
    with pytest.raises(msgspec.ValidationError, match="md5"):
        msgspec.convert({"algorithm": "md5"}, Bucketing)
    with pytest.raises(msgspec.ValidationError, match="<= 1"):
        msgspec.convert({"gates": [{"seed": "x", "ranges": [[0, 1.5]]}]}, Bucketing)
