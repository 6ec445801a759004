"""The report of an experiment: what it says, and that nothing written into a record can break it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from online_evidence import HOUR_MS, YAML, counters, decisions, evidence, experiment

from dashboard.report import make_report
from dashboard.report_caveats import caveats
from dashboard.report_checks import checks
from dashboard.report_cli import report as command
from dashboard.report_course import Course, Edge, Thinned
from dashboard.report_design import design_of, planned_rows
from dashboard.report_format import Metric, duration, moment, p_value, probability
from dashboard.report_words import headline
from sluice.domain.canary import CanaryMetric, CanaryMove, CanaryPlace, CanaryReport
from sluice.domain.events import DecisionMade, DelayEvidence, GuardrailResult, MovedUnits
from sluice.domain.status import Change, State
from sluice.errors import ConfigError

HOSTILE = '<script>alert("1")</script>'
VALUES = """
name: films
primary: rating
measure: value
stopping: {planned_effect: 0.1}
variants: [{name: a}, {name: b}]
"""
CANARY = """
name: films
control: a
variants: [{name: a}, {name: b}]
canary: {}
"""


@pytest.fixture(scope="module")
def made() -> list[DecisionMade]:
    return decisions(experiment())


@pytest.fixture(scope="module")
def page(made: list[DecisionMade]) -> str:
    return make_report(evidence(made), {"PolicyA": "version 3"}).page


def changed(decision: DecisionMade, **given: Any) -> DecisionMade:
    return msgspec.structs.replace(decision, **given)


def text_of(page: str) -> str:
    """Without tags, in one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", page[page.index("<body>") :]).split())


@given(st.integers(1, 300), st.integers(2, 20))
def test_thinned_points_keep_both_ends_and_the_order(number: int, limit: int) -> None:
    kept: Thinned[int] = Thinned(limit)
    for one in range(number):
        kept.add(one)
    found = kept.all()
    assert found[0] == 0 and found[-1] == number - 1
    assert found == sorted(set(found)) and len(found) <= limit + 1
    # No gap is larger than the others by more than the step that the thinning doubled to.
    gaps = [b - a for a, b in pairwise(found)]
    assert len(set(gaps[:-1])) <= 1


@given(st.integers(0, 100), st.integers(2, 20))
def test_an_edge_keeps_the_first_and_the_last(number: int, limit: int) -> None:
    kept: Edge[int] = Edge(limit)
    for one in range(number):
        kept.add(one)
    assert kept.count == number == len(kept.first) + kept.left_out + len(kept.last)
    assert [*kept.first, *kept.last] == [*range(len(kept.first)), *range(number - len(kept.last), number)]


def test_of_equal_versions_the_first_stands_and_gaps_are_counted(made: list[DecisionMade]) -> None:
    course = Course()
    assert course.take(made[0])
    assert not course.take(changed(made[0], verdict="ship"))
    assert course.take(changed(made[4], version=9))
    assert course.last is not None and course.last.version == 9
    assert (course.count, course.passed_over, course.missing) == (2, 1, 7)
    assert [at.verdict for at in course.verdicts.first] == ["no-traffic", "ship"]


class Outside(HTMLParser):
    """Collects what a browser would fetch or run, ids, and what refers to them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object", "embed", "img"):
            self.found.append(tag)
        for name, value in attrs:
            said = value or ""
            if name.startswith("on") or (name in ("src", "href", "xlink:href", "action") and not said.startswith("#")):
                self.found.append(f"{tag} {name}={said}")
            if name == "id":
                self.ids.append(said)
            self.refers += re.findall(r"url\(#([^)]+)\)", said)
            if name == "href" and said.startswith("#"):
                self.refers.append(said[1:])


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    outside = Outside()
    outside.feed(page)
    assert outside.found == []
    assert "http:" not in page and "https:" not in page and "@import" not in page
    assert len(outside.ids) == len(set(outside.ids))
    assert set(outside.refers) <= set(outside.ids)


def test_the_page_has_every_section(page: str) -> None:
    for name in (
        "Reasons", "Design", "Sample: planned and actual", "Results", "Course", "Checks", "Segments", "Shadows",
        "History", "Caveats", "Reproduce", "Appendix: the record",
    ):  # fmt: skip
        assert f"<h2>{name}</h2>" in page, name
    said = text_of(page)
    for text in (
        "Ship PolicyA", "models:/films@PolicyA version 3", "Thompson sampling",
        "complaint must not rise by more than 5", "10 % of the slates are drawn uniformly",
        "sluice explain 5 --experiment films", "sluice verify",
        "partition: impressions/clicks 0: 2,000/1,000; 1: 7/3", "duplicate 3", "next beside PolicyA", "history = new",
        "sluice plan --baseline 0.3",
    ):  # fmt: skip
        assert text in said, text
    assert page.count('role="img" aria-label="') == page.count("<svg") == 7


def test_equal_evidence_gives_equal_bytes(made: list[DecisionMade], page: str) -> None:
    again = make_report(evidence(made), {"PolicyA": "version 3"})
    assert again.page == page
    first, second = again.drawings[0].png(), again.drawings[0].png()
    assert first == second and first.startswith(b"\x89PNG")


def test_texts_of_others_are_escaped(made: list[DecisionMade]) -> None:
    last = made[-1]
    results = tuple(msgspec.structs.replace(one, variant=one.variant + HOSTILE) for one in last.results)
    guardrail = GuardrailResult(
        outcome=HOSTILE, variant=HOSTILE, margin=0.1, difference=None, interval=None, status="breached"
    )
    config = {**last.config, "name": HOSTILE, "primary": f"$x_1$ {HOSTILE}", "new": HOSTILE}
    hostile = changed(
        last, experiment=HOSTILE, results=results, reasons=(HOSTILE, HOSTILE), allocation={HOSTILE: 100},
        guardrails=(guardrail,), config_hash=HOSTILE, config=config,
        segments=tuple(msgspec.structs.replace(one, key=HOSTILE, value=HOSTILE) for one in last.segments),
        moved=(MovedUnits(experiment=HOSTILE, variant=HOSTILE, units=1, impressions=1),),
    )  # fmt: skip
    change = Change(revision=1, action="pause", status="paused", by=HOSTILE, why=HOSTILE, at_ms=1)
    known = msgspec.structs.replace(experiment(), state=State(status="paused", revision=1, changes=(change,)))
    read = evidence([*made[:-1], hostile], experiment=known, counters=counters(HOSTILE))
    page = make_report(read, {"PolicyA": HOSTILE}).page
    outside = Outside()
    outside.feed(page)
    assert outside.found == [] and "<script" not in page
    assert "&lt;script&gt;" in page
    assert len(page) > 50_000 and page.count("<svg") == 7


def test_a_record_of_an_older_version_is_told_as_far_as_it_goes() -> None:
    old = (
        b'{"type":"decision","experiment":"films","version":3,"at_ms":1000,"offsets":{},"config_hash":"c",'
        b'"config":{"control":"b","gone":[1]},"seed":0,"evidence":[],"results":[{"variant":"a","units":10,'
        b'"impressions":20,"outcomes":5,"rate":0.25,"alpha":6,"beta":16,"design_effect":1,"effective_impressions":20,'
        b'"interval":[0.1,0.4],"p_best":0.5,"expected_loss":0.1}],"sample_ratio_p":null,"allocation":{"a":100},'
        b'"allocation_version":1,"verdict":"continue","reasons":[]}'
    )
    decision = msgspec.json.decode(old, type=DecisionMade)
    found = make_report(evidence([decision], record=old, counters=None, without_counters="Redis is away"))
    said = text_of(found.page)
    assert found.headline == "No winner yet: a leads"
    assert "an older version of Sluice made it" in said
    assert "of another version of Sluice, as recorded" in said and "[1]" in said
    assert "the counters could not be read: Redis is away" in said
    assert "too few decisions with evidence to draw anything over time" in said
    assert any(check.state == "unknown" and check.title == "sample ratio" for check in found.checks)


def test_no_traffic_at_all(made: list[DecisionMade]) -> None:
    found = make_report(evidence(made[:1]))
    assert found.headline == "No traffic yet" and not found.drawings
    assert "not enough yet to compare" in text_of(found.page)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("continue", "No winner yet: PolicyA leads"),
        ("ship", "Ship PolicyA"),
        ("stop", "Stop, and keep random"),
        ("invalid", "Do not use these figures"),
        ("insufficient-data", "Too early to say"),
        ("no-traffic", "No traffic yet"),
        ("rollback", "Roll back PolicyA"),
    ],
)
def test_the_headline_says_what_to_do(made: list[DecisionMade], verdict: Any, said: str) -> None:
    rails = tuple(msgspec.structs.replace(one, status="breached") for one in made[-1].guardrails)
    decision = changed(made[-1], verdict=verdict, guardrails=rails if verdict == "rollback" else ())
    assert headline(decision, design_of(decision)) == said


def test_an_aa_test_ships_nothing() -> None:
    it = experiment(YAML + "aa: true\n")
    (found,) = decisions(it, (1000,))
    assert found.verdict == "invalid"
    assert headline(found, design_of(found)) == "The A/A test failed: find the cause first"


def caveats_of(found: Iterable[DecisionMade], **given: Any) -> list[str]:
    read = evidence(found, **given)
    return caveats(read, design_of(read.decision))


def test_a_broken_sample_ratio_is_an_alarm_and_a_caveat(made: list[DecisionMade]) -> None:
    broken = changed(made[-1], verdict="invalid", sample_ratio_always_valid_p=1e-9)
    found = make_report(evidence([broken]))
    assert [check.state for check in found.checks if check.title == "sample ratio"] == ["alarm"]
    assert found.caveats[0].startswith("The evidence is invalid")
    assert "✕ sample ratio" in text_of(found.page)


def test_caveats_follow_from_the_evidence(made: list[DecisionMade]) -> None:
    last = made[-1]
    year = 400 * 24 * HOUR_MS
    short, replayed = caveats_of(made), caveats_of(made, written_ms=last.at_ms + year)
    assert any("weekdays" in one for one in short)
    assert not any("replay" in one or one.startswith("Few slates") for one in short)
    assert any("400 days older than the decision" in one for one in replayed)
    assert any("the latest decision is version 5" in one for one in caveats_of(made[:3], later=5))
    assert any(one.startswith("Few slates (random 30, PolicyA 30 effective)") for one in caveats_of(made[:2]))
    twice = caveats_of([made[0], changed(last, config_hash="other")])
    assert any("configuration changed 1 times" in one for one in twice)
    bayes = decisions(experiment(YAML.replace("expected_loss", "rule: bayesian, expected_loss")), (50, 100))
    assert any("does not bound" in one for one in caveats_of(bayes))


def test_checks_tell_moved_units_delays_and_strangers(made: list[DecisionMade]) -> None:
    moved = MovedUnits(experiment="films", variant="PolicyA", units=90, impressions=900)
    stranger = msgspec.structs.replace(made[-1].evidence[0], variant="ghost")
    decision = changed(
        made[-1], moved=(moved,), evidence=(*made[-1].evidence, stranger),
        delay=DelayEvidence(immature=False, impressions={"random": 400.0, "PolicyA": 400.0}, inflation={}),
    )  # fmt: skip
    read = evidence([decision])
    states = {check.title: (check.state, check.text) for check in checks(read, design_of(decision))}
    assert states["moved units"][0] == "look" and "900 impressions" in states["moved units"][1]
    assert states["delayed outcomes"][0] == "look" and "20.0 %" in states["delayed outcomes"][1]
    assert states["unknown variants"][0] == "look" and "ghost" in states["unknown variants"][1]
    assert states["decisions"][0] == "look" and "begins with version 5" in states["decisions"][1]


def test_a_canary_is_told_by_its_steps() -> None:
    it = experiment(CANARY)
    (decision,) = decisions(it, (1000,))
    place = CanaryPlace(state="rolled-back", step=2, since_ms=decision.at_ms, plan="p")
    move = CanaryMove(
        from_state="running", from_step=2, state="rolled-back", step=2, because="worse", reason="click fell"
    )
    metric = CanaryMetric(outcome="click", margin=0.05, difference=-0.08, interval=(-0.1, -0.06), status="worse")
    report = CanaryReport(
        place=place, share=0, move=move, metrics=(metric,), needed_units={"b": 70}, before=None, orders=()
    )
    found = make_report(evidence([changed(decision, verdict="rollback", canary=report)]))
    said = text_of(found.page)
    assert found.headline == "Roll back b"
    assert "rolled-back, step 2" in said and "click fell" in said and "✕ worse" in said and "−10.00 to −6.00" in said
    assert "steps of 1 %, 5 %, 10 %, 25 %, 50 %, then all traffic" in said


def test_values_are_not_percent() -> None:
    it = experiment(VALUES)
    made = decisions(it)
    found = make_report(evidence(made))
    said = text_of(found.page)
    assert "rating per impression" in said and "of rating" in said
    assert "sluice plan" not in said
    assert {"rate", "posterior"} <= {drawing.name for drawing in found.drawings}


def test_many_variants_stay_readable() -> None:
    names = "".join(f"  - name: v{place}\n" for place in range(32))
    it = experiment(f"name: films\nbandit: {{floor: 0.01}}\nvariants:\n{names}")
    found = make_report(evidence(decisions(it, (100, 400, 900, 2000))))
    assert "24 more variants are in the tables alone" in text_of(found.page)
    assert "26 more variants below" in text_of(found.page)


def test_a_large_record_is_cut_on_the_page(made: list[DecisionMade]) -> None:
    last = changed(made[-1], reasons=("x" * 300_000,))
    assert "`sluice explain --json` prints all" in make_report(evidence([last])).page


def test_what_was_planned_stands_beside_what_came(made: list[DecisionMade]) -> None:
    rows = planned_rows(design_of(made[-1]), made[-1], 3 * HOUR_MS)
    assert rows["planned effect"].startswith("5 points (none is named")
    assert rows["actual sample"] == "2,000 slates, 4,000 impressions, 1,450 × click, over 3 hours of event time"
    assert rows["enough to compare"].endswith("reached")


def test_numbers_are_written_for_people() -> None:
    rate, value = Metric("click", True), Metric("rating", False)
    assert (rate.value(0.12345), rate.difference(-0.01), rate.values((0.1, 0.2))) == (
        "12.35 %", "−1.00", "10.00 to 20.00 %"
    )  # fmt: skip
    assert (value.value(3.14159), value.difference(0.5), value.size(0.25)) == ("3.142", "+0.5", "0.25 of rating")
    assert (probability(1.0), probability(0.0), probability(0.5)) == ("> 99.99 %", "< 0.01 %", "50.00 %")
    assert (p_value(0.00001), p_value(0.0042), p_value(0.5), p_value(None)) == ("< 0.0001", "0.0042", "0.500", "–")
    assert (moment(-1), moment(10**17), moment(0)) == ("–", "–", "1970-01-01 00:00 UTC")
    assert (duration(500), duration(7200_000), duration(10 * 86_400_000)) == ("500 ms", "2 hours", "10 days")


def test_places_that_cannot_be_written_are_told_before_the_work(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    for arguments, said in (
        (["--out", str(tmp_path / "none" / "x.html")], "does not exist"),
        (["--out", str(tmp_path)], "is a folder"),
        (["--out", str(tmp_path / "x.html"), "--charts", str(taken)], "--charts"),
    ):
        failed = CliRunner().invoke(command, ["films", *arguments])
        assert isinstance(failed.exception, ConfigError) and said in str(failed.exception)
