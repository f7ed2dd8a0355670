"""Write explanations for machines, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from han.explanation import Explanation


def render_json(explanations: Iterable[Explanation]) -> Iterator[str]:
    """Yield the parts of one JSON array with a record on each line."""
    separator = "[\n"
    for explanation in explanations:
        yield separator + explanation.to_json()
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def render_json_lines(explanations: Iterable[Explanation]) -> Iterator[str]:
    """Yield one line of JSON for each explanation."""
    for explanation in explanations:
        yield explanation.to_json() + "\n"
