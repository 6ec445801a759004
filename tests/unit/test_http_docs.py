"""docs/http.md names what there is: routes, options, statuses."""

from __future__ import annotations

import re
from pathlib import Path

from router.cli import route

TEXT = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")


def test_every_option_is_told() -> None:
    options = {option for parameter in route.params for option in parameter.opts}
    assert options <= set(re.findall(r"--[a-z-]+", TEXT))
