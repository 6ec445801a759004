"""`sluice watch | counters | experiment` as people start them: output, exit codes, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sluice.adapters.kafka import producer
from sluice.domain.events import OutcomeObserved, encode
from sluice.settings import Settings

GOOD = """
name: homepage
unit: slate
variants:
  - name: random
  - {name: affinity, ranker: affinity}
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(service_env: Callable[[Settings], dict[str, str]]) -> Run:
    def run(*arguments: str | Path, settings: Settings | None = None) -> subprocess.CompletedProcess[str]:
        env = None if settings is None else service_env(settings)
        command = [sys.executable, "-m", "sluice", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "homepage.yaml"
    path.write_text(GOOD)
    return path


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    assert line.startswith("sluice: ")
    return line


def test_check_says_what_is_in_a_file(run: Run, file: Path) -> None:
    done = run("experiment", "check", file)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{file}: homepage is valid (2 variants by slate, ")
    (row,) = json.loads(run("experiment", "check", file, "--json").stdout)
    assert row["name"] == "homepage"
    assert row["allocation"] == {"random": 50, "affinity": 50}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: x\nvariants: [{name: a}]", "variants: "),
        (b"name: x\nvariants: [{name: a}, {name: a}]", "variants[1].name: 'a' is used twice"),
        (b"name: [", "not YAML"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"", "expected a mapping"),
        (b"name: x\ncolour: red\nvariants: [{name: a}, {name: b}]", "colour"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_2(run: Run, tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    for command in ("check", "apply"):
        done = run("experiment", command, path)
        assert (done.returncode, done.stdout) == (2, "")
        line = one_line(done.stderr)
        assert str(path) in line
        assert words in line


def test_a_missing_file_and_a_folder_are_one_line_and_exit_2(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        done = run("experiment", "check", path)
        assert done.returncode == 2
        assert str(path) in one_line(done.stderr)


def test_one_name_in_two_files_is_refused(run: Run, file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text(GOOD)
    done = run("experiment", "check", file, copy)
    assert done.returncode == 2
    assert "'homepage' is also in" in one_line(done.stderr)


@pytest.mark.parametrize("arguments", [("watch",), ("counters",), ("experiment", "list"), ("experiment", "show", "x")])
def test_without_infrastructure_one_line_says_how_to_start_it(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "sluice infra up" in one_line(done.stderr)


def test_wrong_use_is_exit_2(run: Run) -> None:
    assert run("watch", "nonsense").returncode == 2
    assert run("watch", "--limit", "0").returncode == 2
    assert run("experiment", "check").returncode == 2


def test_apply_list_show_and_watch(run: Run, file: Path, make_stack: Callable[..., Settings]) -> None:
    settings = make_stack("embedded")
    assert run("experiment", "list", settings=settings).stdout.startswith("no experiments yet")
    assert run("experiment", "apply", file, settings=settings).returncode == 0
    listed = run("experiment", "list", settings=settings).stdout
    assert "homepage" in listed
    assert "affinity 50 % · random 50 %" in " ".join(listed.split())
    assert json.loads(run("experiment", "list", "--json", settings=settings).stdout)[0]["variants"] == [
        "random",
        "affinity",
    ]
    assert "name: homepage" in run("experiment", "show", "homepage", settings=settings).stdout
    missing = run("experiment", "show", "nope", settings=settings)
    assert (missing.returncode, "there are: homepage" in one_line(missing.stderr)) == (2, True)
    watched = run("watch", "experiments", "--from-start", "--no-follow", "--json", settings=settings)
    assert json.loads(watched.stdout)["name"] == "homepage"
    counted = run("counters", "homepage", settings=settings)
    assert counted.returncode == 0
    assert "affinity" in counted.stdout
    unknown = run("counters", "nope", settings=settings)
    assert (unknown.returncode, "there are: homepage" in one_line(unknown.stderr)) == (2, True)


def test_watch_ends_at_the_limit_and_names_what_it_skipped(run: Run, make_stack: Callable[..., Settings]) -> None:
    settings = make_stack("embedded")
    out = producer(settings)
    out.produce("clicks", key=b"u", value=b"{")
    for number in range(5):
        click = OutcomeObserved(click_id=f"c{number}", impression_id="i", user_id="u", at_ms=1_000)
        out.produce("clicks", key=b"u", value=encode(click))
    assert out.flush(10) == 0
    done = run("watch", "clicks", "--from-start", "--json", "--limit", "3", settings=settings)
    assert [json.loads(line)["click_id"] for line in done.stdout.splitlines()] == ["c0", "c1", "c2"]
    assert "skipped" in one_line(done.stderr)
    plain = run("watch", "clicks", "--from-start", "--limit", "1", settings=settings)
    assert plain.stdout == "1970-01-01 00:00:01  i  user u  click\n"
    assert run("counters", "--json", settings=settings).stdout == (
        '{"experiments":{},"records":{"impressions":{},"clicks":{},"waiting":0,"open":0},'
        '"offsets":{},"watermark_ms":null}\n'
    )
    assert "nothing counted yet" in run("counters", settings=settings).stdout
