"""Settings from the environment: what is refused, how it is said, and that no secret is ever said."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice.adapters.kafka import consumer, producer
from sluice.adapters.redis import connect
from sluice.errors import ConfigError
from sluice.settings import Settings, masked_url

SECRET = "hunter2"


def load(tmp_path: Path, **environ: str) -> Settings:
    return Settings.load({"SLUICE_STATE": str(tmp_path), **environ})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        (f"rediss://user:{SECRET}@host:1/0", "rediss://user:***@host:1/0"),
        (f"redis://:{SECRET}@host:1/0", "redis://:***@host:1/0"),
        (f"redis://user:12/{SECRET}@host:1/0", "redis://user:***@host:1/0"),
        (f"redis://user:a@{SECRET}@host:1/0", "redis://user:***@host:1/0"),
        (f"redis://host:1/0?password={SECRET}&db=1", "redis://host:1/0?password=***&db=1"),
        (f"unix://user:{SECRET}@/run/redis.sock", "unix://user:***@/run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert masked_url(url) == shown


def test_settings_show_no_secret(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        SLUICE_KAFKA="host:1",
        SLUICE_KAFKA_CONFIG=f"sasl.username=me, sasl.password={SECRET}",
        SLUICE_REDIS=f"redis://me:{SECRET}@host:1/0",
    )
    assert settings.kafka_config == {"sasl.username": "me", "sasl.password": SECRET}
    assert SECRET not in repr(settings)


def test_half_a_password_is_not_shown_either(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SLUICE_KAFKA_CONFIG: item 2 has no key") as caught:
        load(tmp_path, SLUICE_KAFKA_CONFIG=f"sasl.password=a,{SECRET}")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:6379", "http://host", f"redis://:{SECRET}/x@host:1/0"])
def test_what_is_no_redis_url_is_wrong_use(url: str) -> None:
    with pytest.raises(ConfigError, match="SLUICE_REDIS: not a Redis URL") as caught:
        connect(Settings(redis=url))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("client", [producer, consumer])
def test_a_property_that_kafka_does_not_know_is_wrong_use(client: object) -> None:
    assert callable(client)
    with pytest.raises(ConfigError, match=r"SLUICE_KAFKA_CONFIG: .*foo\.bar"):
        client(Settings(kafka="127.0.0.1:1", kafka_config={"foo.bar": SECRET}))


@pytest.mark.parametrize(("name", "value"), [("PARTITIONS", "0"), ("WINDOW_MS", "-1"), ("MAX_HELD", "many")])
def test_a_number_names_its_variable_and_what_is_allowed(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"SLUICE_{name}: '{value}': allowed are whole numbers from [01]"):
        load(tmp_path, **{f"SLUICE_{name}": value})
