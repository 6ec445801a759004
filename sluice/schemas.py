"""JSON Schemas of every record, generated from the structs. `python -m sluice.schemas [FOLDER] [--check]`.

Library: msgspec (JSON Schema 2020-12).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from sluice import names
from sluice.domain.events import (
    AssignmentMade,
    Clicks,
    DeadLetter,
    DecisionMade,
    Heartbeat,
    Impressions,
    RawImpressionShown,
    StatsPublished,
)
from sluice.domain.experiment import Experiment
from sluice.domain.lifecycle_events import LifecycleEvent
from sluice.domain.rankings import SlateRanked
from sluice.domain.shadow import ShadowCompared

__all__ = ["FOLDER", "SCHEMAS", "files", "main"]

FOLDER = Path("docs/schemas")

SCHEMAS: dict[str, Any] = {
    names.IMPRESSIONS: Impressions,
    names.RAW_IMPRESSIONS: RawImpressionShown | Heartbeat,
    names.CLICKS: Clicks,
    names.ASSIGNMENTS: AssignmentMade,
    names.SHADOW: ShadowCompared,
    names.RANKINGS: SlateRanked,
    names.VARIANT_STATS: StatsPublished,
    names.DECISIONS: DecisionMade,
    names.EXPERIMENTS: Experiment,
    names.LIFECYCLE: LifecycleEvent,
    names.DEAD_LETTERS: DeadLetter,
}
"""Topic → type of its records"""


def files() -> dict[str, str]:
    """File name → content: one schema a topic."""
    return {f"{topic}.json": _render(topic, kind) for topic, kind in SCHEMAS.items()}


def _render(topic: str, kind: Any) -> str:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Records of topic {topic}",
        **msgspec.json.schema(kind, schema_hook=_hook),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False, sort_keys=False) + "\n"


def _hook(kind: type) -> dict[str, Any]:
    if kind is object:  # anything at all
        return {"description": "any JSON value"}
    raise NotImplementedError(f"no schema for {kind}")


def main(arguments: list[str] | None = None) -> int:
    """Write the files that differ, or with --check name them. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sluice.schemas", description="JSON Schemas from the code.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="default: docs/schemas")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is not current")
    options = parser.parse_args(arguments)
    wanted = files()
    there = {path.name: path.read_text(encoding="utf-8") for path in options.folder.glob("*.json")}
    stale = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    if options.check:
        for name in stale:
            print(f"{options.folder / name} is not current: run `python -m sluice.schemas`", file=sys.stderr)
        return 1 if stale else 0
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in stale:
        path = options.folder / name
        if name in wanted:
            path.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
