"""The OpenAPI document as a page: plain HTML, no script, nothing from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse

__all__ = ["PATH", "install"]

PATH = "/docs"

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #888; --accent: #0a7d6c; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; font-size: 1.1rem; color: var(--quiet) }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .5rem .9rem }
summary { cursor: pointer } summary code { font-weight: 600 } summary span { color: var(--quiet); margin-left: .6rem }
b.method { display: inline-block; min-width: 3.4rem; color: var(--accent); font: 600 .85rem ui-monospace, monospace }
pre { background: #8881; border-radius: 6px; padding: .7rem .9rem; overflow: auto; font-size: .85rem; line-height: 1.4 }
table { border-collapse: collapse; width: 100%; font-size: .92rem }
td, th { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-top: 1px solid var(--line) }
th { font-weight: 500; color: var(--quiet); border: 0 } a { color: var(--accent) }
"""


def install(app: FastAPI) -> None:
    """Serve the page at `PATH`."""

    @app.get(PATH, include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(
            _page(app.openapi(), str(request.base_url).rstrip("/")), headers={"Content-Security-Policy": policy}
        )


def _page(document: dict[str, Any], base: str) -> str:
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation.get("tags", [""])[0], []).append(
                _operation(method.upper(), base, path, operation)
            )
    info = document["info"]
    about = "".join(f"<p>{escape(part)}</p>" for part in info["description"].split("\n\n"))
    body = "".join(f"<h2>{escape(name)}</h2>{''.join(items)}" for name, items in groups.items())
    schemas = "".join(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items()))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>"
        f"<h1>{escape(info['title'])}</h1><p>{escape(info['version'])} · <a href='/openapi.json'>openapi.json</a></p>"
        f"{about}{body}<h2>schemas</h2>{schemas}</html>"
    )


def _operation(method: str, base: str, path: str, operation: dict[str, Any]) -> str:
    media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    parts = [f"<p>{_prose(operation.get('description', ''))}</p>"]
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [(p["name"], p["in"], p.get("description", "")) for p in parameters]
        parts.append(_table(("parameter", "in", ""), rows))
    if media:
        example = json.dumps(media["example"], ensure_ascii=False, indent=1)
        parts.append(f"<p>Takes {_link(media['schema'])}:</p><pre>{escape(_curl(method, base + path, example))}</pre>")
    rows = [(status, told["description"], _of(told)) for status, told in operation["responses"].items()]
    body = "".join(
        f"<tr><td>{escape(status)}<td>{_prose(meaning)}<td>{link}" for status, meaning, link in rows
    )  # fmt: skip
    parts.append(f"<table><tr><th>answer<th><th>{body}</table>")
    return (
        f"<details><summary><b class=method>{method}</b><code>{escape(path)}</code>"
        f"<span>{escape(operation.get('summary', ''))}</span></summary>{''.join(parts)}</details>"
    )


def _curl(method: str, url: str, example: str) -> str:
    return f"curl -X {method} {url} -H 'Content-Type: application/json' -d '{example}'"


def _prose(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _of(told: dict[str, Any]) -> str:
    for media in told.get("content", {}).values():
        return _link(media.get("schema", {}))
    return ""


def _link(schema: dict[str, Any]) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f"<a href='#{escape(name)}'>{escape(name)}</a>" if name else escape(schema.get("type", ""))


def _schema(name: str, schema: dict[str, Any]) -> str:
    # The browser opens what a link to something inside it leads to.
    described = f"<p id='{escape(name)}'>{_prose(schema.get('description', ''))}</p>"
    shown = escape(json.dumps({k: v for k, v in schema.items() if k != "description"}, ensure_ascii=False, indent=1))
    return (
        f"<details><summary><code>{escape(name)}</code></summary>{described}"
        f"<pre>{shown}</pre></details>"
    )  # fmt: skip


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(cell)}' for cell in head)}{lines}</table>"
