"""`docs/schemas` is what the code says, and the records of `docs/events.md` are events by schema and by decoder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from sluice import schemas
from sluice.names import TOPICS

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"```json (\S+)\n(.*?)```", (ROOT / "docs/events.md").read_text(), re.DOTALL)


def schema(topic: str) -> Any:
    return json.loads((ROOT / schemas.FOLDER / f"{topic}.json").read_text())


def test_the_files_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert schemas.main([str(ROOT / schemas.FOLDER), "--check"]) == 0, capsys.readouterr().err


def test_check_names_what_is_missing_changed_or_too_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert schemas.main([str(tmp_path)]) == 0
    assert schemas.main([str(tmp_path), "--check"]) == 0
    (tmp_path / "clicks.json").write_text("{}")
    (tmp_path / "impressions.json").unlink()
    (tmp_path / "old.json").write_text("{}")
    capsys.readouterr()
    assert schemas.main([str(tmp_path), "--check"]) == 1
    said = capsys.readouterr().err
    assert [name for name in ("clicks", "impressions", "old", "decisions") if f"{name}.json" in said] == [
        "clicks",
        "impressions",
        "old",
    ]
    assert schemas.main([str(tmp_path)]) == 0
    assert schemas.main([str(tmp_path), "--check"]) == 0


def test_every_topic_has_a_schema_and_an_example() -> None:
    wanted = {topic.name for topic in TOPICS}
    assert set(schemas.SCHEMAS) == wanted
    assert {topic for topic, _ in EXAMPLES} == wanted


@pytest.mark.parametrize("topic", schemas.SCHEMAS)
def test_the_schemas_are_schemas(topic: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(topic))


@pytest.mark.parametrize(("topic", "text"), EXAMPLES)
def test_the_examples_validate_and_decode_to_what_they_say(topic: str, text: str) -> None:
    record = json.loads(text)
    jsonschema.validate(record, schema(topic), cls=jsonschema.Draft202012Validator)
    event = msgspec.json.decode(text, type=schemas.SCHEMAS[topic])
    encoded = json.loads(msgspec.json.encode(event))
    assert {key: encoded[key] for key in record} == record


@pytest.mark.parametrize(
    ("topic", "change"),
    [
        ("clicks", {"at_ms": -1}),
        ("clicks", {"at_ms": 1.5}),
        ("clicks", {"impression_id": ""}),
        ("clicks", {"type": "impression"}),
        ("clicks", {"value_milli": 10**16}),
        ("decisions", {"verdict": "maybe"}),
        ("decisions", {"allocation": {"a": 101}}),
        ("impressions", {"assignments": [["e"]]}),
        ("impressions", {"assignments": [["e", "v", "v=100", "u", 0.0]]}),
    ],
)
def test_schema_and_decoder_refuse_the_same(topic: str, change: dict[str, Any]) -> None:
    good = next(json.loads(text) for name, text in EXAMPLES if name == topic)
    record = {**good, **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, schema(topic), cls=jsonschema.Draft202012Validator)
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(json.dumps(record), type=schemas.SCHEMAS[topic])
