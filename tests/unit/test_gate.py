"""The gate before an alias: what passes, what is refused, and with which sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit

from training.gate import Estimate, Limits, Verdict, calibration_error, judge
from training.metrics import Scored, bootstrap, intervals, user_weights

USERS, SLATES, SIZE = 200, 1600, 10
RNG = np.random.default_rng(1)
TRUTH = expit(RNG.normal(0.2, 1.3, SLATES * SIZE))
LIKED = RNG.random(len(TRUTH)) < TRUTH
USER = RNG.integers(0, USERS, SLATES)
NOISE = RNG.random(len(TRUTH))


def scored(score: NDArray[np.float64], liked: NDArray[np.bool_] = LIKED) -> Scored:
    return Scored(liked=liked, offsets=np.arange(0, len(score) + 1, SIZE), user=USER, score=score)


GOOD = scored(TRUTH)


def verdict(candidate: Scored, present: Scored | None = None, **given: object) -> Verdict:
    arguments: dict[str, object] = {"row_us": 5.0, "segments": {}}
    return judge(candidate, present, **(arguments | given))  # type: ignore[arg-type]


def worse(by: float) -> Scored:
    """The truth with noise on its log odds, calibrated again."""
    return scored(expit(logit(TRUTH) / (1 + by**2) + np.random.default_rng(2).normal(0, by, len(TRUTH)) / (1 + by**2)))


def test_a_good_model_passes_alone_and_against_itself() -> None:
    for present in (None, GOOD):
        found = verdict(GOOD, present)
        assert found.passed
        assert found.figures["auc_low"] < found.figures["auc"] < found.figures["auc_high"]
    assert found.figures["auc_change"] == found.figures["auc_change_low"] == 0
    assert found.figures["ctr_at_1_change"] == found.figures["ctr_at_1_change_low"] == 0


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (scored(LIKED.mean() + 0.1 * (NOISE - 0.5)), ["AUC 0.5", "random order"]),
        (scored(np.clip(TRUTH + 0.12, 0, 1)), ["calibration error 0.1"]),
        (scored(np.where(NOISE < 0.01, np.nan, TRUTH)), ["not probabilities"]),
        (scored(2 * TRUTH), ["not probabilities"]),
        (scored(TRUTH, np.zeros(len(TRUTH), dtype=bool)), ["too small to judge by"]),
    ],
)
def test_what_is_unfit_is_refused_with_its_reasons_and_no_others(candidate: Scored, words: list[str]) -> None:
    found = verdict(candidate)
    assert len(found.refusals) == len(words)
    for refusal, word in zip(found.refusals, words, strict=True):
        assert word in refusal
        assert "\n" not in refusal


def test_slow_scoring_is_refused() -> None:
    assert verdict(GOOD, row_us=80.0).refusals == ("a row takes 80.0 µs, more than 50",)


def test_the_user_rate_alone_does_not_pass() -> None:
    """It orders nothing inside a slate, however good its AUC over all rows is."""
    rate = expit(np.random.default_rng(3).normal(0, 2, USERS))
    row = np.repeat(USER, SIZE)
    liked = np.random.default_rng(4).random(len(row)) < rate[row]
    found = verdict(scored(rate[row] * 0.999, liked))
    assert found.figures["auc"] > 0.8
    assert [refusal.partition(":")[0] for refusal in found.refusals] == ["click rate at 1 above that of a random order"]


def test_a_worse_model_is_refused_against_the_one_in_force_and_a_better_one_is_not() -> None:
    found = verdict(worse(0.8), GOOD)
    assert verdict(worse(0.8)).passed
    assert [refusal.partition(" may")[0] for refusal in found.refusals] == ["AUC", "click rate at 1"]
    assert found.figures["auc_change"] < -0.01
    assert verdict(GOOD, worse(0.8)).passed


def test_within_the_margin_is_good_enough_only_where_the_interval_says_so() -> None:
    near = worse(0.15)
    change = verdict(near, GOOD).figures
    assert -0.01 < change["auc_change_low"] < change["auc_change"] < 0
    assert verdict(near, GOOD).passed
    tight = Limits(auc_margin=-change["auc_change_low"] * 0.99, ctr_margin=0.1)
    assert "AUC may fall by more than" in verdict(near, GOOD, limits=tight).refusals[0]


def test_intervals_are_those_of_a_bootstrap_over_users() -> None:
    near = worse(0.5)
    found = verdict(near, GOOD).figures
    weights = user_weights(USERS, 2000, 0)
    drawn, against = bootstrap(near, weights), bootstrap(GOOD, weights)
    ends = intervals({name: drawn[name] - against[name] for name in ("auc", "ctr_at_1")})
    for name, (low, high) in ends.items():
        half = found[f"{name}_change"] - found[f"{name}_change_low"]
        assert half == pytest.approx((high - low) / 2, rel=0.15), name


def test_a_segment_that_loses_much_is_refused_and_small_ones_are_not_judged() -> None:
    row = np.repeat(USER, SIZE)
    segments = {"few": row < 20, "some": (row >= 20) & (row < 80), "rest": row >= 80}
    spoiled = scored(np.where(segments["some"], NOISE, TRUTH))
    free = Limits(min_auc=0.5, auc_margin=1, ctr_margin=1, max_calibration_error=1)
    found = verdict(spoiled, GOOD, segments=segments, limits=free)
    assert set(found.segments) == {"some", "rest"}
    assert [refusal.partition(" 0")[0] for refusal in found.refusals] == [
        "segment some: AUC", "segment some: AUC falls by more than",
    ]  # fmt: skip
    assert len(verdict(spoiled, segments=segments, limits=free).refusals) == 1
    assert verdict(GOOD, GOOD, segments=segments, limits=replace(free, min_segment_auc=0.7)).passed


def test_calibration_error_by_hand() -> None:
    # ten parts of two rows: 0.5 was said of all; nine parts have one click of two, the last one has two
    liked = np.array([True, False] * 9 + [True, True])
    one = Scored(liked=liked, offsets=np.array([0, 20]), user=np.zeros(1, dtype=np.int64), score=np.full(20, 0.5))
    assert calibration_error(one) == pytest.approx(0.05)


def test_a_small_sample_does_not_make_a_model_look_uncalibrated() -> None:
    """What chance leaves is what models show that are right about everything."""
    few = 40
    errors, chances = [], []
    for seed in range(60):
        liked = np.random.default_rng(seed).random(few * SIZE) < TRUTH[: few * SIZE]
        one = Scored(
            liked=liked, offsets=np.arange(0, few * SIZE + 1, SIZE), user=np.arange(few), score=TRUTH[: few * SIZE]
        )
        errors.append(calibration_error(one))
        free = Limits(max_calibration_error=-1)
        chances.append(float(verdict(one, limits=free).refusals[-1].split(", ")[1]))
    assert np.mean(errors) == pytest.approx(np.mean(chances), rel=0.1)
    assert np.mean(errors) > 0.04


def test_an_estimate_reads_well() -> None:
    assert str(Estimate(-0.01234, -0.02, 0.0)) == "-0.0123 [-0.0200, 0.0000]"
