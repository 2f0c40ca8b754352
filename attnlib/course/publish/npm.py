"""Files of npm packages, each pinned by the hash that npm publishes for it.

A package is downloaded once, by npm itself, and kept in the user's cache; it is
checked every time, so that a deck holds what was tried, or there is no deck.
"""

import base64
import functools
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

PINS = Path(__file__).parent / "deck" / "npm.json"  # package@version: sha512


def cache() -> Path:
    """The user's folder for what can be downloaded again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attnlib"


def fetch() -> dict[str, Path]:
    """Every pinned package, as name -> its file in the cache.

    Raises FileNotFoundError where npm is needed and missing, ValueError where it
    cannot download, or where a file is not the one that was pinned.
    """
    packages = {}
    for spec, pin in json.loads(PINS.read_text()).items():
        path = cache() / (spec.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")
        if not path.exists():
            _download(spec, path)
        sha = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        if pin != f"sha512-{sha}":
            path.unlink()
            raise ValueError(f"{spec} is not the file that was pinned: its sha512 differs")
        packages[spec.rpartition("@")[0]] = path
    return packages


@functools.cache
def read(package: str, member: str) -> bytes:
    """One file of a pinned package."""
    with tarfile.open(fetch()[package]) as tar:
        return tar.extractfile(f"package/{member}").read()


def _download(spec: str, path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(
            f"decks need {spec}, once, from npm, and npm is missing: install it with "
            "`apt install npm` or `brew install node`, or from https://nodejs.org"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [npm, "pack", "--silent", "--pack-destination", folder, spec]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"npm could not download {spec}: {done.stderr.strip()[-300:]}")
        os.replace(Path(folder) / path.name, path)
