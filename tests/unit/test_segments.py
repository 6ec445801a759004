"""Names of segments: they survive the way there and back, fit the events and cannot be an experiment's name."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.domain.events import Assignment
from sluice.domain.experiment import load_experiments
from sluice.domain.segments import MAX_KEY, MAX_VALUE, Segment, parse_segment, segment_name
from sluice.errors import ConfigError

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
KEYS = st.from_regex(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_KEY - 1}}}", fullmatch=True)


@given(NAMES, KEYS, st.text())
def test_a_name_is_read_back_and_fits_an_assignment(experiment: str, key: str, value: str) -> None:
    name = segment_name(experiment, key, value)
    found = parse_segment(name)
    assert found is not None
    assert found[:2] == (experiment, key)
    assert 1 <= len(found.value) <= MAX_VALUE
    assert segment_name(*found) == name
    made = Assignment(name, "a", "a=100", "u")
    assert msgspec.json.decode(msgspec.json.encode(made), type=Assignment) == made


@given(NAMES)
def test_the_name_of_an_experiment_is_no_segment(name: str) -> None:
    assert parse_segment(name) is None


@given(st.text())
def test_any_name_can_be_asked(name: str) -> None:
    """Counted names come from the log, which may hold anything."""
    found = parse_segment(name)
    assert found is None or f"{found.experiment}@{found.key}={found.value}" == name


def test_no_segment_is_the_name_of_an_experiment() -> None:
    name = segment_name("demo", "history", "new")
    assert name == "demo@history=new"
    with pytest.raises(ConfigError):
        load_experiments(f"{{name: {name}, variants: [{{name: a}}, {{name: b}}]}}", "test")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("25-34", "25-34"),
        ("56+", "56+"),
        ("São Paulo", "São_Paulo"),
        ("北京", "北京"),
        ("a @=\n b", "a_b"),
        ("", "other"),
        ("x" * 40, "x" * 40),
        ("x" * 41, "other"),
    ],
)
def test_values_are_cleaned(value: str, kept: str) -> None:
    assert parse_segment(segment_name("e", "k", value)) == Segment("e", "k", kept)


@pytest.mark.parametrize("name", ["", "demo", "@k=v", "demo@k", "demo@=v", "demo@k=", "demo=v", "k=v@demo"])
def test_what_is_no_segment(name: str) -> None:
    assert parse_segment(name) is None
