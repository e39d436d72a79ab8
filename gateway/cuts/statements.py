"""The statements of cuts in the form that a read needs."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from shared.cut_plan import cuts_of_several
from shared.statements import in_type, load_statements

_PARTS = ("with_halves", "with_raw")
"""Parts of the statements, by the parameters that say whether they are needed; a plain read needs none."""

_OF_SUMS = ("usage", "usage_json", "usage_of_top", "usage_of_top_json")
"""Those that only add up: they have no outcomes, and first halves of hours are negative hours there."""


def _forms() -> dict[tuple[bool, ...], Mapping[str, str]]:
    """Return all forms, by whether they are for several organisations of a cluster, and what they need."""
    on_nodes, with_raw_events = cuts_of_several()
    found: dict[tuple[bool, ...], Mapping[str, str]] = {}
    for needed in product((False, True), repeat=len(_PARTS)):
        needs = dict(zip(_PARTS, needed, strict=True))
        without = [part for part in _PARTS if not needs[part]]
        of_sums = load_statements(
            "cuts.sql", without=[*without, "outcomes"], first_halves="negative_first_halves"
        )
        found[False, *needed] = {
            **load_statements("cuts.sql", without=without),
            **{name: of_sums[name] for name in _OF_SUMS},
        }
        found[True, *needed] = with_raw_events if needs["with_raw"] else on_nodes
    return found


_FORMS = _forms()
_NARROW = {form: in_type(statements, "bigint") for form, statements in _FORMS.items()}
_WIDE = {form: in_type(statements, "numeric") for form, statements in _FORMS.items()}


def statement(
    name: str, parameters: Mapping[str, Any], *, wide: bool = False, of_several: bool = False
) -> str:
    """Return a statement of sql/cuts.sql without the parts that its parameters do not need.

    wide: add up integers in numeric, not in bigint, which may raise NumberTooLarge. of_several: for several
    organisations of a Citus cluster.
    """
    form = of_several, *(parameters.get(part, False) for part in _PARTS)
    return (_WIDE if wide else _NARROW)[form][name]
