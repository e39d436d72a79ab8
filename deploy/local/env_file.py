"""`.stack/env`: the settings of the running stack as lines that a shell can source.

A shell keeps them after the stack is gone. Therefore the file also sets ANALYTICS_STACK, which names each
of its settings with a digest of the value: what the next start finds in its environment and agrees with
the digest came from such a file, and names servers that are gone. Any other value a person has set.
"""

import hashlib
import shlex
from collections.abc import Mapping, MutableMapping
from pathlib import Path

_MARK = "ANALYTICS_STACK"


def write(path: Path, settings: Mapping[str, str]) -> None:
    """Write the file; only this user may read it."""
    mark = ",".join(f"{name}:{_digest(value)}" for name, value in sorted(settings.items()))
    marked = {**settings, _MARK: mark}
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in sorted(marked.items())]
    path.unlink(missing_ok=True)  # one that is left over keeps its mode
    path.touch(mode=0o600)
    path.write_text("".join(lines), encoding="utf-8")


def forget_earlier_stack(environ: MutableMapping[str, str]) -> list[str]:
    """Remove the settings that came from such a file; return their names."""
    marks = dict(pair.rpartition(":")[::2] for pair in environ.pop(_MARK, "").split(","))
    present = [name for name in marks if name in environ]
    forgotten = [name for name in present if _digest(environ[name]) == marks[name]]
    for name in forgotten:
        del environ[name]
    return forgotten


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()[:12]
