"""`make docs`: every page is in the site, every link leads somewhere, and it loads nothing from elsewhere.

Library: MkDocs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = re.compile(r'<(?:script|img|iframe|source)[^>]*\ssrc="([^"]*)"|<link[^>]*\srel="([^"]*)"[^>]*\shref="([^"]*)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: what is not said is not counted, and nothing is strict any more.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built_with_its_text(site: Path) -> None:
    pages = sorted((ROOT / "docs").rglob("*.md"))
    for page in pages:
        place = page.relative_to(ROOT / "docs").with_suffix(".html")
        built = (site / (place.with_name("index.html") if place.stem == "README" else place)).read_text()
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        headings = len(re.findall(r"^#{1,3} ", text, re.MULTILINE))
        assert len(re.findall(r"<h[123][ >]", built)) >= headings, f"{place}: a fence swallowed what follows it"
    assert len(pages) > 15
    assert list(site.glob("schemas/*.json"))


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = []
    for page in site.rglob("*.html"):
        for source, relation, target in LOADED.findall(page.read_text()):
            if relation not in ("canonical", "prev", "next"):
                loaded.append(source or target)
    assert len(loaded) > 20
    assert [address for address in loaded if "//" in address] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", styles)
