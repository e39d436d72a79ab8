"""How a setting is declared, and how a class of them is read from the environment."""

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from shared.errors import SettingsError
from shared.settings.values import Kind, check_text


@dataclass(frozen=True)
class Setting:
    """What is declared of one setting."""

    name: str
    kind: Kind
    doc: str
    default: str | None
    secret: bool
    may_be_empty: bool


def setting(
    name: str,
    kind: Kind,
    doc: str,
    *,
    default: str | None = None,
    secret: bool = False,
    may_be_empty: bool = False,
) -> Any:
    """Declare a setting: its environment name, kind, purpose, and default as it would be written.

    Without a default it is required. Secrets are masked wherever the configuration is shown. may_be_empty: an
    empty variable is a value, and not the same as none.
    """
    return field(metadata={"setting": Setting(name, kind, doc, default, secret, may_be_empty)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every class of settings has."""

    masked: Mapping[str, str] = field(repr=False, compare=False)
    """The configuration by environment name, as it is written and without secrets, for the log at start."""

    @classmethod
    def declared(cls) -> dict[str, Setting]:
        """Return the declarations by the names of their fields."""
        return {item.name: item.metadata["setting"] for item in fields(cls) if item.metadata}

    @classmethod
    def contradictions(cls, values: Mapping[str, Any]) -> Iterable[str]:
        """Return the faults of values that do not go together. values has only those that could be read."""
        del values
        return ()


T = TypeVar("T", bound=Settings)


def load(settings_class: type[T], environ: Mapping[str, str]) -> T:
    """Read a class of settings from the environment. Raises SettingsError that lists every fault.

    An empty variable counts as absent, as an unset one does in most deployment tools, unless it may be empty.
    """
    values: dict[str, Any] = {}
    masked: dict[str, str] = {}
    faults: list[str] = []
    for attribute, declared in settings_class.declared().items():
        given = environ.get(declared.name)
        text = given if given or (given is not None and declared.may_be_empty) else declared.default
        if text is None:
            faults.append(f"{declared.name} is missing ({declared.doc})")
            continue
        try:
            check_text(text)
            values[attribute] = declared.kind.parse(text)
        except ValueError as fault:
            faults.append(f"{declared.name} {fault}")
            continue
        masked[declared.name] = declared.kind.mask(text) if declared.secret and text else text
    faults += settings_class.contradictions(values)
    if faults:
        raise SettingsError(faults)
    return settings_class(masked=masked, **values)


def load_or_exit(settings_class: type[T], environ: Mapping[str, str]) -> T:
    """Like load, but a fault ends the process with exit code 2 and the whole list on stderr."""
    try:
        return load(settings_class, environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None


def misspelt(environ: Mapping[str, str], known: Iterable[str]) -> dict[str, str]:
    """Return the variables that are nearly a setting, each with the setting it may have been meant for.

    Only where that setting itself is not there: other programs' variables are like ours.
    """
    names = set(known)
    absent = sorted(name for name in names if not environ.get(name))
    found = {}
    for given in sorted(set(environ) - names):
        near = difflib.get_close_matches(given, absent, n=1, cutoff=0.87)
        if near:
            found[ascii(given)[1:-1]] = near[0]
    return found
