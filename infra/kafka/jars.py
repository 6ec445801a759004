"""Where the jars of Apache Kafka are: of an installed Kafka, else downloaded once by Maven into the user's cache."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from sluice.errors import ConfigError, TransportError

__all__ = ["VERSION", "find", "java", "missing"]

log = logging.getLogger(__name__)

VERSION = "4.3.1"
POM = Path(__file__).with_name("pom.xml")
JAVA = 17
DOWNLOAD_DEADLINE_S = 600.0


def java() -> str:
    """The `java` to run. Raises ConfigError when there is none, or one that is too old for Kafka 4."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    found = found or shutil.which("java")
    if found is None:
        raise ConfigError(f"Apache Kafka needs Java {JAVA} or later, and there is no `java` on PATH")
    # macOS has a `java` that only says where to get one: it fails here.
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False, timeout=60)
    version = re.search(r'version "(\d+)', said.stderr + said.stdout)
    if said.returncode != 0 or version is None or int(version[1]) < JAVA:
        what = version[1] if version else "not a working Java"
        raise ConfigError(f"Apache Kafka needs Java {JAVA} or later: {found} is {what}")
    return found


def find() -> Path:
    """The folder of jars, downloaded first if need be. Raises ConfigError, or TransportError when that fails."""
    installed = _installed()
    if installed is not None:
        return installed
    cached = _cache() / f"kafka-{VERSION}"
    if not (cached / f"kafka_2.13-{VERSION}.jar").is_file():
        _download(cached)
    return cached


def missing() -> str:
    """Why a real Kafka cannot be started here; empty when nothing is known to be missing."""
    try:
        java()
    except ConfigError as error:
        return str(error)
    cached = _cache() / f"kafka-{VERSION}" / f"kafka_2.13-{VERSION}.jar"
    if _installed() is None and not cached.is_file() and shutil.which("mvn") is None:
        return "no Kafka is installed, and there is no `mvn` on PATH to download one"
    return ""


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "sluice"


def _installed() -> Path | None:
    homes = [Path(os.environ["KAFKA_HOME"])] if os.environ.get("KAFKA_HOME") else []
    for name in ("kafka-server-start.sh", "kafka-server-start"):
        script = shutil.which(name)
        if script:
            home = Path(script).resolve().parent.parent
            homes += [home, home / "libexec"]
    # Kafka 3 would need ZooKeeper or another way to format; only 4 and later are the same to us.
    return next((home / "libs" for home in homes if any((home / "libs").glob("kafka_2.13-[4-9].*.jar"))), None)


def _download(target: Path) -> None:
    mvn = shutil.which("mvn")
    if mvn is None:
        raise ConfigError("no Kafka is installed (KAFKA_HOME, PATH), and there is no `mvn` on PATH to download one")
    log.warning("downloading Apache Kafka %s (54 MB) into %s", VERSION, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".kafka-", ignore_cleanup_errors=True) as folder:
        command = [mvn, "-q", "-B", "-C", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=DOWNLOAD_DEADLINE_S, cwd=folder
            )
        except subprocess.TimeoutExpired as error:
            raise TransportError(f"Maven did not bring Apache Kafka within {DOWNLOAD_DEADLINE_S:g} s") from error
        if done.returncode != 0:
            said = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
            raise TransportError(f"Maven cannot bring Apache Kafka {VERSION}: {said[0] if said else 'no reason given'}")
        Path(folder).chmod(0o755)
        # Whole or not at all; two downloads at once bring the same, and the first to finish stays.
        try:
            Path(folder).rename(target)
        except OSError:
            if not target.is_dir():
                raise
