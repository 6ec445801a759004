"""Templates that become one HTML file, with one look. Library: jinja2 (autoescape on)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["render"]

_HERE = Path(__file__).parent


def render(template: Path, values: Mapping[str, Any], filters: Mapping[str, Any]) -> str:
    """The page of a template that includes `page.css`; templates of this folder can be included, too.

    Raises jinja2's UndefinedError for a name that the template uses and nobody gave.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, _HERE]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= filters
    return environment.get_template(template.name).render(values)
