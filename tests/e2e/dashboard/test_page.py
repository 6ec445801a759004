"""The dashboard's page in a real browser, over a real server, broker and Redis. Library: playwright (chromium), axe."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from courses import bandit, bandit_course, canary_course, decided
from dashboard_server import serving, writer
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from infra import stack as stacks
from sluice.adapters import catalogue
from sluice.domain.events import encode
from sluice.domain.lifecycle_events import ModelTrained, RetrainRequested
from sluice.names import EXPERIMENTS, LIFECYCLE
from sluice.settings import Settings

LENGTH = 120
"""More decisions than the log of the page fetches at once"""
HOSTILE = '<img src=x onerror="window.hit=1">\'&"{{1}}../%2e'
DESKTOP = {"width": 1280, "height": 1000}
NARROW = {"width": 390, "height": 844}
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A bandit with LENGTH decisions, a canary that was promoted, and one whose names are hostile."""
    with stacks.start("embedded", Settings(state=tmp_path_factory.mktemp("dashboard"))) as running:
        write = writer(running.settings)
        write(*map(encode, bandit_course(bandit(), LENGTH)))
        write(*map(encode, canary_course(20)), experiment="e")
        catalogue.apply(running.settings, [bandit()], by="somebody", why="to see")
        hostile = encode(decided(bandit(), 9)).replace(b'"newer"', _json(HOSTILE))
        write(hostile.replace(b'"experiment":"demo"', b'"experiment":' + _json(HOSTILE)), experiment=HOSTILE)
        yield running.settings


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[httpx.Client]:
    with serving(settings) as client:
        yield client


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """`open_page(client, "#/demo", viewport=…, color_scheme=…)`; whatever the console complains of fails the test."""
    complaints: list[str] = []
    with contextlib.ExitStack() as contexts:

        def open_page(client: httpx.Client, path: str = "", *, quiet: bool = True, **given: Any) -> Page:
            context = contexts.enter_context(browser.new_context(**{"viewport": DESKTOP, **given}))
            page = context.new_page()
            page.set_default_timeout(60_000)

            def listen(message: ConsoleMessage) -> None:
                if quiet and message.type in ("error", "warning"):
                    complaints.append(message.text)

            page.on("console", listen)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(f"{str(client.base_url).rstrip('/')}/{path}")
            return page

        yield open_page
    assert complaints == []


def _json(text: str) -> bytes:
    return encode(text)


def verdict(page: Page) -> Any:
    return page.locator("#verdict")


def tile(page: Page, title: str) -> Any:
    return page.locator(".tile", has_text=title).locator("b")


def test_the_list_and_the_verdict(server: httpx.Client, open_page: Open) -> None:
    page = open_page(server)
    expect(page).to_have_url(re.compile("#/demo$"))
    listed = page.get_by_role("navigation", name="Experiments").get_by_role("link")
    expect(listed).to_have_count(3)
    expect(page.locator(".entry[aria-current=page] b")).to_have_text("demo")
    expect(verdict(page)).to_have_text("Ship newer")
    expect(page.locator(".lead")).to_contain_text("It is 8 percentage points better than the control")
    expect(page.locator(".lights")).to_contain_text("Sample ratio as promised")
    expect(page.locator(".lights")).to_contain_text("Guardrails: held")
    expect(page.locator(".variants tbody tr")).to_have_count(3)
    expect(page.locator(".changes")).to_contain_text("apply by somebody: “to see”")
    for title in (
        "Click rate over decisions",
        "Allocation",
        "Probability of being the best",
        "Expected loss of choosing it",
    ):
        chart = page.locator(".chart", has=page.get_by_role("heading", name=title, exact=True))
        expect(chart.locator("canvas")).to_be_visible()
        assert (
            chart.locator(".summary").inner_text().startswith(("control", "newer", "New slates go", "Least with newer"))
        )
    page.get_by_role("link", name=re.compile("^e ")).click()
    expect(page).to_have_url(re.compile("#/e$"))
    expect(verdict(page)).to_have_text("Ship B")
    expect(page.locator(".lead")).to_contain_text("Promoted")


def test_a_new_decision_appears(server: httpx.Client, settings: Settings, open_page: Open) -> None:
    name = "growing"
    course = bandit_course(bandit(name), 3)
    write = writer(settings)
    write(*map(encode, course[:2]), experiment=name)
    page = open_page(server, f"#/{name}")
    expect(page.locator(".timeline b").first).to_have_text("Decision 2")
    write(encode(course[2]), experiment=name)
    expect(page.locator(".timeline b").first).to_have_text("Decision 3")
    expect(page.locator(".log .version").first).to_have_text("3")


def test_time_travel_by_keyboard(server: httpx.Client, open_page: Open) -> None:
    page = open_page(server, "#/demo")
    slider = page.get_by_role("slider", name="Decision")
    slider.focus()
    slider.press("Home")
    expect(verdict(page)).to_have_text("No traffic yet")
    expect(page).to_have_url(re.compile("#/demo/1$"))
    expect(page.get_by_role("status")).to_contain_text("as it was at decision 1")
    expect(page.locator(".log .version")).to_have_text(["1"])
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    expect(tile(page, "Impressions")).to_have_text("300")  # 100 slates of three variants
    expect(page.locator(".past .when")).to_have_text("1970-01-04 00:00:00")
    expect(page.locator(".log .version")).to_have_text(["3", "2", "1"])
    slider.press("End")
    expect(verdict(page)).to_have_text("Ship newer")
    expect(page).to_have_url(re.compile("#/demo$"))
    expect(page.get_by_role("button", name="Back to live")).to_have_count(0)


def test_an_address_shows_what_it_was_taken_from(server: httpx.Client, open_page: Open) -> None:
    page = open_page(server, "#/demo/9")
    expect(verdict(page)).to_have_text("Go on")
    expect(page.locator(".timeline b").first).to_have_text("Decision 9")
    page.get_by_role("button", name="Back to live").click()
    expect(verdict(page)).to_have_text("Ship newer")
    page.get_by_role("button", name="Show decision 110").click()
    expect(page).to_have_url(re.compile("#/demo/110$"))


def test_explain_by_keyboard(server: httpx.Client, open_page: Open) -> None:
    page = open_page(server, "#/demo")
    button = page.get_by_role("button", name=f"Explain decision {LENGTH}", exact=True)
    button.focus()
    button.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("same bytes", exact=True)).to_be_visible()
    expect(dialog.locator(".command code")).to_have_text(f"sluice explain {LENGTH} --experiment demo")
    expect(dialog.locator(".facts")).to_contain_text(decided(bandit(), 2).config_hash)
    expect(dialog.locator(".offsets")).to_contain_text(f"{150 * (LENGTH - 1):,} impressions")
    assert serious(page) == []
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()


def test_a_canary_is_told_step_by_step(server: httpx.Client, open_page: Open) -> None:
    page = open_page(server, "#/e")
    steps = page.locator(".step")
    expect(steps).to_have_count(4)
    expect(page.locator(".step.done")).to_have_count(4)
    expect(page.locator(".moves")).to_contain_text("On to step 2 of 3")
    page.locator(".moves li", has_text="On to step 2 of 3").get_by_role("button").click()
    expect(page.locator(".step.current b")).to_have_text("30 %")
    expect(page.locator(".step.done")).to_have_count(1)
    expect(page.locator(".moves")).not_to_contain_text("On to step 3 of 3")


def test_the_page_survives_a_restart_of_its_server(settings: Settings, open_page: Open) -> None:
    name = "restarted"
    course = bandit_course(bandit(name), 2)
    write = writer(settings)
    write(encode(course[0]), experiment=name)
    with serving(settings) as client:
        page = open_page(client, f"#/{name}", quiet=False)
        expect(page.locator(".timeline b").first).to_have_text("Decision 1")
        port = client.base_url.port or 0
    expect(page.locator(".banner")).to_contain_text("Disconnected.")
    expect(page.locator(".connection")).to_have_text("not connected")
    write(encode(course[1]), experiment=name)
    with serving(settings, port=port):
        expect(page.locator(".timeline b").first).to_have_text("Decision 2")
        expect(page.locator(".banner")).to_have_count(0)


@pytest.mark.parametrize("path", ["#/demo", "#/demo/9", "#/e", "#/nobody"])
def test_nothing_is_wider_than_a_telephone(server: httpx.Client, open_page: Open, path: str) -> None:
    page = open_page(server, path, viewport=NARROW, quiet=path != "#/nobody")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= NARROW["width"]


def test_hostile_names_are_only_names(server: httpx.Client, open_page: Open) -> None:
    page = open_page(server, "#/demo", viewport=NARROW)
    page.get_by_role("link", name=re.compile("^<img")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(page.locator(".variants tbody th").last).to_contain_text(HOSTILE)
    expect(page.locator(".variants .tag")).to_have_text("control")
    assert page.evaluate("() => window.hit") is None
    assert page.locator("main img").count() == 0
    assert page.evaluate("() => document.documentElement.scrollWidth") <= NARROW["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("path", "viewport"), [("#/demo", DESKTOP), ("#/e/5", DESKTOP), ("#/demo/9", NARROW)])
def test_axe_finds_nothing_serious(
    server: httpx.Client, open_page: Open, scheme: str, path: str, viewport: dict[str, int]
) -> None:
    page = open_page(server, path, viewport=viewport, color_scheme=scheme)
    expect(verdict(page)).to_be_visible()
    expect(page.locator(".log li").first).to_be_visible()
    assert serious(page) == []


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def test_colours_follow_the_system_until_somebody_chooses(server: httpx.Client, open_page: Open) -> None:
    page = open_page(server, "#/demo", color_scheme="dark", reduced_motion="reduce")
    root = page.locator("html")
    expect(root).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Light colours").click()
    expect(root).to_have_attribute("data-theme", "light")
    page.reload()
    expect(root).to_have_attribute("data-theme", "light")
    expect(page.locator(".connection .dot.live")).to_have_css("animation-name", "none")


def test_pictures_and_numbers_can_be_taken_along(server: httpx.Client, open_page: Open, tmp_path: Path) -> None:
    page = open_page(server, "#/demo/9")
    expect(verdict(page)).to_have_text("Go on")
    sizes = []
    for label in ("Picture", "Save “Allocation” as PNG"):
        with page.expect_download() as download:
            page.get_by_role("button", name=label).click()
        assert download.value.suggested_filename.startswith("sluice-demo-9")
        data = Path(download.value.path()).read_bytes()
        assert data.startswith(b"\x89PNG")
        sizes.append((int.from_bytes(data[16:20]), int.from_bytes(data[20:24])))
    (width, height), (one_width, one_height) = sizes
    assert width == 2400 and height > 2 * one_height > 400 and one_width < width
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert Path(download.value.path()).read_text().startswith("version,at_ms,")
    page.locator(".chart", has_text="Allocation").get_by_text("Numbers").click()
    expect(page.get_by_role("group", name="Numbers of “Allocation”").locator("tbody tr").first).to_contain_text("9")


def test_nothing_there_yet(browser: Browser, open_page: Open, make_stack: Callable[..., Settings]) -> None:
    settings = make_stack("embedded")
    with serving(settings) as client:
        page = open_page(client, quiet=False)
        expect(page.get_by_role("heading", level=1)).to_have_text("No experiment yet")
        expect(page.locator(".state pre")).to_contain_text("sluice experiment apply")
        catalogue.apply(settings, [bandit("first")])
        expect(page.get_by_role("heading", level=1)).to_have_text("first")
        expect(page.get_by_role("heading", name="No decision yet")).to_be_visible()
        assert serious(page) == []


def test_an_experiment_that_is_deleted_while_somebody_looks(
    server: httpx.Client, settings: Settings, open_page: Open
) -> None:
    catalogue.apply(settings, [bandit("doomed")])
    page = open_page(server, "#/doomed", quiet=False)
    expect(page.get_by_role("heading", name="No decision yet")).to_be_visible()
    writer(settings, EXPERIMENTS)(None, experiment="doomed")
    expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
    expect(page.get_by_role("link", name=re.compile("^doomed"))).to_have_count(0)


def test_the_lives_of_models(server: httpx.Client, settings: Settings, open_page: Open) -> None:
    write = writer(settings, LIFECYCLE)
    said = {"model": "films", "alias": "champion", "at_ms": 1000}
    write(encode(RetrainRequested(id="r", against="1", reason=HOSTILE, by="ada", **said)))
    page = open_page(server, "#/demo")
    life = page.locator(".life")
    expect(life).to_contain_text("films@champion")
    expect(life.locator(".light")).to_have_text("version 1 serves")
    expect(life.locator(".moves li")).to_contain_text(HOSTILE)
    write(encode(ModelTrained(id="t", attempt="r", version="2", rows=7, **said)))
    expect(life.locator(".moves li").first).to_contain_text("Version 2 is trained, on 7 rows")
    expect(life.locator(".step[aria-current]")).to_contain_text("Model tests")
    assert serious(page) == []
    page.set_viewport_size(NARROW)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= NARROW["width"]


def test_servers_that_are_away_and_experiments_that_are_not_there_are_said(
    server: httpx.Client, open_page: Open, tmp_path: Path
) -> None:
    page = open_page(server, "#/nobody", quiet=False)  # browsers log every 404
    expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
    expect(page.locator(".state")).to_contain_text("no experiment 'nobody'")
    nowhere = Settings(kafka="127.0.0.1:9", redis="redis://127.0.0.1:9/0", state=tmp_path)
    with serving(nowhere, ready=False) as client:
        page = open_page(client, quiet=False)  # its server ends before it does
        expect(page.locator(".banner")).to_contain_text("Kafka is away")
        expect(page.locator(".banner")).to_contain_text("Redis is away")
        expect(page.get_by_role("heading", level=1)).to_have_text("Waiting for Kafka")
        assert serious(page) == []


def test_decisions_of_another_version_are_shown_as_far_as_they_tell(
    server: httpx.Client, settings: Settings, open_page: Open
) -> None:
    writer(settings)(b'{"type":"decision","experiment":"old","version":3,"verdict":"ship"}', experiment="old")
    page = open_page(server, "#/old")
    expect(verdict(page)).to_have_text("Ship")
    expect(page.locator(".verdict")).to_contain_text("written by another version of Sluice")


@pytest.mark.parametrize("number", ["1e308", "-1e300", "null"])
def test_no_number_of_a_record_is_too_odd(
    server: httpx.Client, settings: Settings, open_page: Open, number: str
) -> None:
    name = f"odd{number}"
    fields = rb'"(rate|weighted_rate|difference|p_best|expected_loss|alpha)":[-0-9.e]+'
    odd = re.sub(fields, rb'"\1":' + number.encode(), encode(decided(bandit(name), 9)))
    writer(settings)(odd, experiment=name)
    page = open_page(server, f"#/{name}", viewport=NARROW)
    expect(verdict(page)).to_be_visible()
    assert not re.search("NaN|Infinity|undefined", page.locator("main").inner_text())
    assert page.evaluate("() => document.documentElement.scrollWidth") <= NARROW["width"]


APPEND = """async () => {
  const { append } = await import("/static/js/series.js");
  const row = (v) => ({
    rate: [v / 1e5], lower: [null], upper: [null], allocation: [50],
    p_best: [0.5], expected_loss: [0], impressions: [v], clicks: [v],
  });
  const common = (v) => ({
    version: [v], at_ms: [v], wall_ms: [v], verdict: [v < 20000 ? "continue" : "ship"],
    allocation_version: [Math.floor(v / 1000)], regret: null,
  });
  let series = {
    version: [], at_ms: [], wall_ms: [], verdict: [], allocation_version: [], variants: {}, regret: null, decisions: 0,
  };
  let longest = 0;
  for (let v = 1; v <= 36000; v += 1) {
    series = append(series, { ...common(v), variants: v > 100 ? { a: row(v), b: row(v) } : { a: row(v) } });
    longest = Math.max(longest, series.version.length);
  }
  const columns = [series.version, series.verdict, ...Object.values(series.variants).flatMap(Object.values)];
  const lengths = new Set(columns.map((column) => column.length));
  return { longest, lengths: lengths.size, versions: series.version, decisions: series.decisions };
}"""


def test_an_hour_of_decisions_stays_small(server: httpx.Client, open_page: Open) -> None:
    found = open_page(server, "#/demo").evaluate(APPEND)
    versions = found["versions"]
    assert found["longest"] <= 660 and found["lengths"] == 1 and found["decisions"] == 36_000
    assert versions == sorted(set(versions)) and versions[0] == 1 and versions[-1] == 36_000
    assert {20_000, *range(1_000, 36_000, 1_000)} <= set(versions)  # where verdict or allocation changed
