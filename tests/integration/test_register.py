"""Registration on a real MLflow store: what passes serves, what does not stays aside, and nothing is left half done."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from movielens_files import write_movielens
from openmp import without_openmp
from trainings import log_policies

from sluice.adapters.features import FeatureStore
from sluice.adapters.mlflow import Registry, parse_model_uri
from sluice.adapters.redis import connect
from sluice.cli import main
from sluice.errors import ConfigError, ModelUnusable, TransportError
from sluice.features import feature_rows
from sluice.models import Linear, Trees
from sluice.names import Keys
from sluice.settings import Settings
from training.aliases import ROLLED_BACK, Aliases
from training.dataset import Dataset
from training.lock import alone
from training.models import Examples, fit_policy_a, fit_policy_b
from training.prepare import PrepareOptions, prepare
from training.register import IN_FORCE, LEFT_OUT, MOVED, REFUSED, ROLLED_BACK_BEFORE, Registration, register, roll_back
from training.tracking import Tracking

Policies = dict[str, Linear | Trees]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_movielens(tmp_path_factory.mktemp("data") / "ml-tiny")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Callable[[Path], str]) -> Settings:
    """A store with nothing but an empty experiment."""
    settings = Settings(state=tmp_path_factory.mktemp("state"))
    mlflow_store(settings.state)
    Tracking(settings)
    return settings


@pytest.fixture(scope="module")
def prepared(source: Path, base: Settings) -> tuple[Dataset, Path]:
    return prepare(str(source), base.state / "training", PrepareOptions())


@pytest.fixture(scope="module")
def examples(prepared: tuple[Dataset, Path]) -> Examples:
    return Examples.of(prepared[0])


@pytest.fixture(scope="module")
def good(examples: Examples) -> Policies:
    train = examples.data.train
    return {"PolicyA": fit_policy_a(examples, train).model, "PolicyB": fit_policy_b(examples, train)[0].model}


@pytest.fixture
def settings(base: Settings, tmp_path: Path) -> Settings:
    """A copy of the store of its own, with the prepared data."""
    shutil.copy(base.state / "mlflow.db", tmp_path)
    shutil.copytree(base.state / "training", tmp_path / "training")
    return Settings(state=tmp_path)


def upside_down(model: Linear | Trees) -> Linear:
    """Ranks every slate the wrong way round."""
    start = model.start if isinstance(model, Trees) else model
    return replace(start, weights=-start.weights)


def run(settings: Settings, prepared: tuple[Dataset, Path], **given: Any) -> Registration:
    notices = given.pop("notices", [])
    return register(settings, Tracking(settings), *prepared, notice=notices.append, **given)


def states(found: Registration) -> tuple[str, str, str]:
    return found.policies["PolicyA"].state, found.policies["PolicyB"].state, found.router.state


def served(settings: Settings, uri: str) -> str:
    """The version that is in force; "" when none is."""
    try:
        return Registry(settings).resolve(parse_model_uri(uri)).version
    except ModelUnusable:
        return ""


def in_force(settings: Settings) -> tuple[str, str, str]:
    return (
        served(settings, "models:/movielens_ctr_ab@PolicyA"),
        served(settings, "models:/movielens_ctr_ab@PolicyB"),
        served(settings, "models:/movielens_ctr_router@router"),
    )


def rows(settings: Settings) -> dict[str, int]:
    """Table → its rows: all that a store remembers."""
    with closing(sqlite3.connect(settings.state / "mlflow.db")) as store:
        names = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: store.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}


def test_models_that_pass_serve_and_the_next_call_finds_nothing_to_do(
    settings: Settings, prepared: tuple[Dataset, Path], examples: Examples, good: Policies
) -> None:
    training = log_policies(Tracking(settings), examples, good)
    first = run(settings, prepared)
    assert states(first) == (MOVED, MOVED, MOVED)
    assert first.run_id == training
    assert in_force(settings) == ("1", "2", "1") == (*first.in_force.values(), first.router.version)

    registry = Registry(settings)
    for policy, model in good.items():
        version = registry.resolve(parse_model_uri(f"models:/movielens_ctr_ab@{policy}"))
        tags = dict(version.tags)
        assert (tags["sluice.gate"], tags["sluice.fingerprint"]) == ("passed", prepared[0].fingerprint)
        assert float(tags["sluice.auc"]) == pytest.approx(first.policies[policy].verdict.figures["auc"], abs=1e-4)
        assert registry.load(version).score(examples.features).tobytes() == model.score(examples.features).tobytes()

    before = rows(settings)
    second = run(settings, prepared)
    assert states(second) == (IN_FORCE, IN_FORCE, IN_FORCE)
    assert rows(settings) == before


@pytest.mark.parametrize("trained", [True, False])
def test_a_dry_run_judges_and_changes_nothing(
    trained: bool, settings: Settings, prepared: tuple[Dataset, Path], examples: Examples, good: Policies
) -> None:
    if trained:
        log_policies(Tracking(settings), examples, good)
    before = rows(settings)
    found = run(settings, prepared, dry_run=True)
    assert states(found) == (MOVED, MOVED, MOVED)
    assert bool(found.run_id) == trained
    assert found.policies["PolicyB"].verdict.figures["auc"] > 0.7
    assert rows(settings) == before


def test_a_worse_model_stays_aside_with_its_reasons(
    settings: Settings, prepared: tuple[Dataset, Path], examples: Examples, good: Policies
) -> None:
    tracking = Tracking(settings)
    log_policies(tracking, examples, good)
    run(settings, prepared)
    log_policies(tracking, examples, {"PolicyA": good["PolicyA"], "PolicyB": upside_down(good["PolicyB"])})

    dry = run(settings, prepared, dry_run=True)
    found = run(settings, prepared)
    assert states(dry) == states(found) == (MOVED, REFUSED, MOVED)
    assert in_force(settings) == ("3", "2", "2")
    refused = found.policies["PolicyB"]
    assert (refused.version, refused.before) == ("4", "2")
    assert any("against the version in force" in line for line in refused.verdict.refusals)
    tags = dict(Registry(settings).resolve(parse_model_uri("models:/movielens_ctr_ab/4")).tags)
    assert tags["sluice.gate"] == "refused: " + "; ".join(refused.verdict.refusals)
    assert (
        dict(Registry(settings).resolve(parse_model_uri("models:/movielens_ctr_router@router")).tags)["sluice.policies"]
        == "PolicyA=3,PolicyB=2"
    )

    before = rows(settings)
    again = run(settings, prepared)
    assert states(again) == (IN_FORCE, REFUSED, IN_FORCE)
    assert again.policies["PolicyB"].version == "4"
    assert rows(settings) == before  # a version is made once


def test_a_rollback_goes_back_stays_back_and_goes_forward_again(
    settings: Settings, prepared: tuple[Dataset, Path], examples: Examples, good: Policies
) -> None:
    tracking = Tracking(settings)
    for _ in range(2):
        log_policies(tracking, examples, good)
        run(settings, prepared)
    assert in_force(settings) == ("3", "4", "2")

    back = roll_back(settings, tracking, "PolicyB", notice=[].append)
    assert (back.policies["PolicyB"].before, back.policies["PolicyB"].version) == ("4", "2")
    assert back.in_force == {"PolicyA": "3", "PolicyB": "2"}
    assert in_force(settings)[:2] == ("3", "2")

    found = run(settings, prepared)
    assert states(found) == (IN_FORCE, ROLLED_BACK_BEFORE, MOVED)
    assert in_force(settings) == ("3", "2", "3")

    forward = roll_back(settings, tracking, "PolicyB", notice=[].append)
    assert (forward.policies["PolicyB"].before, forward.policies["PolicyB"].version) == ("2", "4")
    assert in_force(settings) == ("3", "4", "2")  # the router that served them before serves them again
    assert states(run(settings, prepared)) == (IN_FORCE, IN_FORCE, IN_FORCE)
    for version in ("2", "4"):
        left = Registry(settings).resolve(parse_model_uri(f"models:/movielens_ctr_ab/{version}"))
        assert ROLLED_BACK not in dict(left.tags)


def test_a_twin_of_the_version_in_force_is_not_what_was_there_before(
    settings: Settings, prepared: tuple[Dataset, Path], examples: Examples, good: Policies
) -> None:
    tracking = Tracking(settings)
    for _ in range(2):
        log_policies(tracking, examples, good)
        run(settings, prepared)
    # As when two commands at once, of two machines, each make a version of one run and move the alias to it.
    registry = Registry(settings)
    made = registry.resolve(parse_model_uri("models:/movielens_ctr_ab/4"))
    source = tracking.client.get_model_version("movielens_ctr_ab", "4").source
    twin = tracking.client.create_model_version("movielens_ctr_ab", source, made.run_id)
    aliases = Aliases(tracking, settings, "movielens_ctr_ab", "")
    aliases.move("PolicyB", replace(made, version=str(twin.version)))
    assert in_force(settings)[1] == "5"

    roll_back(settings, tracking, "PolicyB", notice=[].append)
    assert in_force(settings)[1] == "2"
    assert run(settings, prepared).policies["PolicyB"].state == ROLLED_BACK_BEFORE

    tracking.client.set_registered_model_alias("movielens_ctr_ab", "PolicyB", "5")
    tracking.client.set_registered_model_tag("movielens_ctr_ab", "sluice.previous.PolicyB", "4")
    with pytest.raises(ConfigError, match="versions 4 and 5 are the same model"):
        roll_back(settings, tracking, "PolicyB", notice=[].append)


def test_two_that_register_at_once_make_each_version_once(
    settings: Settings, prepared: tuple[Dataset, Path], examples: Examples, good: Policies
) -> None:
    tracking, notices = Tracking(settings), []
    log_policies(tracking, examples, good)
    with ThreadPoolExecutor(2) as pool:
        with alone(settings.state, notices.append):  # both begin while somebody else is at work
            both = [pool.submit(run, settings, prepared, notices=notices) for _ in range(2)]
            deadline = time.monotonic() + 60
            while len(notices) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
        found = sorted(states(one.result()) for one in both)
    assert notices == ["another `sluice register` is at work: waiting until it has ended"] * 2
    assert found == [(IN_FORCE, IN_FORCE, IN_FORCE), (MOVED, MOVED, MOVED)]
    assert len(tracking.client.search_model_versions("name = 'movielens_ctr_ab'")) == 2


def test_a_rollback_without_an_earlier_version_is_one_line(
    settings: Settings, prepared: tuple[Dataset, Path], examples: Examples, good: Policies
) -> None:
    tracking = Tracking(settings)
    with pytest.raises(ConfigError, match="no such alias"):
        roll_back(settings, tracking, "PolicyB", notice=[].append)
    log_policies(tracking, examples, good)
    run(settings, prepared)
    with pytest.raises(ConfigError, match="nothing to go back to"):
        roll_back(settings, tracking, "PolicyB", notice=[].append)
    log_policies(tracking, examples, good)
    run(settings, prepared)
    tracking.client.delete_model_version("movielens_ctr_ab", "2")
    with pytest.raises(ConfigError, match="version 2 was deleted"):
        roll_back(settings, tracking, "PolicyB", notice=[].append)
    assert in_force(settings)[1] == "4"


def test_what_a_training_does_not_have_is_left_out(
    settings: Settings, prepared: tuple[Dataset, Path], examples: Examples, good: Policies
) -> None:
    tracking, notices = Tracking(settings), []
    log_policies(tracking, examples, {"PolicyA": good["PolicyA"]})
    found = run(settings, prepared, notices=notices)
    assert states(found) == (MOVED, LEFT_OUT, MOVED)
    assert in_force(settings) == ("1", "", "1")
    assert notices == ["PolicyB is left out: the training run has none: run `sluice train` again"]

    log_policies(tracking, examples, {})
    with pytest.raises(ConfigError, match="holds no models"):
        run(settings, prepared)


def test_without_the_openmp_library_policy_a_is_registered_alone_and_one_line_says_why(
    settings: Settings, prepared: tuple[Dataset, Path], examples: Examples, good: Policies,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    notices: list[str] = []
    log_policies(Tracking(settings), examples, good)
    without_openmp(monkeypatch)
    assert states(run(settings, prepared, notices=notices)) == (MOVED, LEFT_OUT, MOVED)
    assert len(notices) == 1
    assert "apt-get install libgomp1" in notices[0]


def test_a_version_in_force_that_cannot_be_read_does_not_block_the_way(
    settings: Settings, prepared: tuple[Dataset, Path], examples: Examples, good: Policies
) -> None:
    tracking, notices = Tracking(settings), []
    tracking.client.create_registered_model("movielens_ctr_ab")
    tracking.client.create_model_version("movielens_ctr_ab", (settings.state / "nothing").as_uri())
    tracking.client.set_registered_model_alias("movielens_ctr_ab", "PolicyA", "1")
    log_policies(tracking, examples, good)
    assert states(run(settings, prepared, notices=notices)) == (MOVED, MOVED, MOVED)
    assert len(notices) == 1
    assert "cannot be compared with" in notices[0]


@pytest.mark.parametrize("table", ["model_versions", "registered_model_aliases"])
def test_a_store_that_fails_in_between_leaves_no_alias_and_the_next_call_finishes(
    table: str, settings: Settings, prepared: tuple[Dataset, Path], examples: Examples, good: Policies
) -> None:
    log_policies(Tracking(settings), examples, good)
    with closing(sqlite3.connect(settings.state / "mlflow.db")) as store:
        # Versions: the third is that of the router, when those of the policies are complete.
        when = "WHEN (SELECT count(*) FROM model_versions) = 2" if table == "model_versions" else ""
        store.execute(f"CREATE TRIGGER gone BEFORE INSERT ON {table} {when} BEGIN SELECT RAISE(ABORT, 'gone'); END")
    with pytest.raises(TransportError) as error:
        run(settings, prepared)
    assert "\n" not in str(error.value)
    assert in_force(settings) == ("", "", "")
    with closing(sqlite3.connect(settings.state / "mlflow.db")) as store:
        store.execute("DROP TRIGGER gone")
    assert states(run(settings, prepared)) == (MOVED, MOVED, MOVED)
    assert in_force(settings) == ("1", "2", "1")


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["register", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_the_command(
    settings: Settings, source: Path, prepared: tuple[Dataset, Path], examples: Examples, good: Policies,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SLUICE_STATE", str(settings.state))
    log_policies(Tracking(settings), examples, good)
    code, out, err = command(capsys, "--data", source, "--dry-run")
    assert (code, err) == (0, "")
    assert "PolicyA  would move to a new version" in out
    code, out, err = command(capsys, "--data", source, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["in_force"] == {"PolicyA": "1", "PolicyB": "2"}
    assert report["PolicyA"]["auc"] > 0.7
    assert report["PolicyA"]["refusals"] == []
    code, out, err = command(capsys, "--data", source)
    assert (code, err) == (0, "")
    assert "PolicyB  version 2 is in force: nothing to do" in out

    log_policies(Tracking(settings), examples, good | {"PolicyA": upside_down(good["PolicyA"])})
    code, out, err = command(capsys, "--data", source)
    assert code == 1
    assert "PolicyA  version 3 is refused: version 1 stays in force" in out
    assert "PolicyB  version 4 is in force now (before: version 2)" in out
    lines = err.splitlines()
    assert len(lines) > 1
    assert all(line.startswith("sluice: PolicyA is refused: ") for line in lines)

    code, out, err = command(capsys, "--rollback", "PolicyB")
    assert (code, err) == (0, "")
    assert "PolicyB  version 2 is in force now (before: version 4)" in out
    code, out, err = command(capsys, "--rollback", "PolicyA")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_features_of_users_and_items_come_to_redis(
    embedded: Settings, base: Settings, settings: Settings, source: Path, prepared: tuple[Dataset, Path],
    examples: Examples, good: Policies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SLUICE_STATE", str(settings.state))
    monkeypatch.setenv("SLUICE_REDIS", embedded.redis)
    log_policies(Tracking(settings), examples, good)
    code, out, err = command(capsys, "--data", source, "--features", "train")
    assert (code, err) == (0, "")
    assert " users and " in out

    data = prepared[0]
    slate = data.test_from  # at its request nothing of the test part is known yet
    rows = data.rows(data.test[:1])
    user, items = data.users[int(data.log.user[slate])], [data.log.items[code] for code in data.log.item[rows]]
    with connect(embedded) as client:
        store = FeatureStore(client, Keys(embedded.prefix))
        (known,), states = store.read([user], items)
        _, catalogue = store.catalogue() or pytest.fail("no catalogue")
    found = feature_rows(catalogue, known, items, states, int(data.log.at_ms[slate]))
    assert found.tobytes() == examples.features[rows].tobytes()


@pytest.mark.parametrize(
    ("arguments", "uri", "code", "words"),
    [
        (["--rollback", "PolicyB", "--dry-run"], "", 2, "only one of them"),
        (["--features", "all", "--dry-run"], "", 2, "only one of them"),
        (["--features", "all"], "", 2, "no Redis"),
        (["--data", "/no/such"], "", 2, "no such file or folder"),
        (["--rollback", "PolicyB"], "http://127.0.0.1:9", 1, "MLflow at http://127.0.0.1:9"),
    ],
)
def test_wrong_use_and_a_server_that_is_away_are_one_line(
    arguments: list[str], uri: str, code: int, words: str, settings: Settings, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SLUICE_STATE", str(settings.state))
    monkeypatch.setenv("SLUICE_MLFLOW", uri)
    found, out, err = command(capsys, *arguments)
    assert (found, out, len(err.splitlines())) == (code, "", 1)
    assert words in err
    assert mlflow.active_run() is None
