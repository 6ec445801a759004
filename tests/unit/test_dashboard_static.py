"""The page's files: what is vendored is what was published, and nothing needs more than the page's policy allows."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import dashboard

STATIC = Path(dashboard.__file__).parent / "static"
VENDOR = STATIC / "vendor"


def own(pattern: str) -> list[Path]:
    return [path for path in sorted(STATIC.rglob(pattern)) if VENDOR not in path.parents]


def test_vendored_files_are_the_published_ones() -> None:
    told = dict(re.findall(r"\| `([^`]+)` \([^)]*\) \| `([0-9a-f]{64})` \|", (VENDOR / "README.md").read_text()))
    there = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.suffix in (".js", ".css")
    }
    assert there == told and len(told) == 4
    assert all((VENDOR / name).parent.joinpath("LICENSE").is_file() for name in told)


def test_every_module_is_asked_for_at_once() -> None:
    page = (STATIC / "index.html").read_text()
    modules = {f"/static/{path.relative_to(STATIC).as_posix()}" for path in STATIC.rglob("*.js")}
    assert set(re.findall(r'(?:modulepreload" href|module" src)="([^"]+)"', page)) == modules
    styles = {f"/static/{path.relative_to(STATIC).as_posix()}" for path in STATIC.rglob("*.css")}
    assert set(re.findall(r'stylesheet" href="([^"]+)"', page)) == styles


def test_nothing_is_inline_from_elsewhere_or_parsed_as_html() -> None:
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://", page)
    for path in own("*.js"):
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), path
        assert not re.search(r"https?://", text), path
    for path in own("*.css"):
        assert not re.search(r"@import|url\(", path.read_text()), path


def test_modules_stay_small() -> None:
    assert [path.name for path in own("*.js") if len(path.read_text().splitlines()) > 400] == []
