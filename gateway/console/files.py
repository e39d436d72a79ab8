"""The console's built files, read once at start: nothing else can be asked for, whatever a path says."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BUILT = Path(__file__).parent / "dist"
"""Where gateway/console/build.py puts them."""

PAGE = "index.html"

_ASSETS = "assets"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PACKED = {".br": "br", ".gz": "gzip"}
_BY_SIZE = ("br", "gzip")
"""The encodings that are kept, the smallest first."""

_NOT_BUILT = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The console is not built</title></head>
<body><h1>The console is not built</h1>
<p>This gateway has no files of the console. The API works without them.</p>
<p>Build them with <code>python -m gateway.console.build</code> (<code>make console</code>), and restart the
gateway. The image, <code>make up</code> and <code>make demo</code> do so by themselves.</p></body></html>
"""


@dataclass(frozen=True)
class File:
    """A file as it is sent. packed: the same, by content coding."""

    content_type: str
    body: bytes
    packed: Mapping[str, bytes]

    def choose(self, accept_encoding: str | None) -> tuple[str | None, bytes]:
        """Return the coding that a client takes, None for none, and the bytes of it."""
        taken = _taken(accept_encoding or "")
        for coding in _BY_SIZE:
            if coding in self.packed and coding in taken:
                return coding, self.packed[coding]
        return None, self.body

    def etag(self, coding: str | None) -> str:
        """Return the tag of the file in a coding."""
        digest = hashlib.blake2b(self.body, digest_size=12).hexdigest()
        return f"{digest}-{coding}" if coding else digest


def _taken(accept_encoding: str) -> set[str]:
    """Return the codings that a header names and does not refuse by q=0."""
    found = set()
    for item in accept_encoding.lower().split(","):
        name, _, rest = item.partition(";")
        weight = rest.replace(" ", "").removeprefix("q=")
        if not weight or weight.strip("0.") != "":
            found.add(name.strip(" \t"))
    return found


def read_files(folder: Path = BUILT) -> tuple[File, Mapping[str, File]]:
    """Return the page and its assets by name; without a build a page that says so, and none."""
    if not (folder / PAGE).is_file():
        return File(_TYPES[".html"], _NOT_BUILT, {}), {}
    assets = {path.name: _read(path) for path in (folder / _ASSETS).iterdir() if path.suffix in _TYPES}
    return _read(folder / PAGE), assets


def _read(path: Path) -> File:
    packed = {
        coding: path.with_name(path.name + suffix).read_bytes()
        for suffix, coding in _PACKED.items()
        if path.with_name(path.name + suffix).is_file()
    }
    return File(_TYPES[path.suffix], path.read_bytes(), packed)
