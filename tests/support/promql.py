"""What a PromQL expression names: metrics with the labels of each selector, and labels it groups, joins or makes.

Enough of the grammar for that; whether an expression is valid is promtool's to say.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Named", "named"]

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
    |(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
    |(?P<range>\[[^\]]*\])
    |(?P<number>0x[0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+|(?:ms|[smhdwy])(?:\d+(?:ms|[smhdwy]))*)?)
    |(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    |(?P<sign>=~|!~|!=|==|<=|>=|.)""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan", "start", "end"}


class Named(NamedTuple):
    selectors: list[tuple[str, dict[str, str]]]
    """(metric, {label: value or pattern}), one for each selector"""
    grouped: set[str]
    """Labels of `by`, `on`, `group_left`, …"""
    made: set[str]
    """Labels that `label_replace` makes"""

    @property
    def metrics(self) -> set[str]:
        return {metric for metric, _ in self.selectors}


def named(expression: str) -> Named:
    """Raises ValueError where a selector has no name, or a parenthesis no end."""
    tokens = [(found.lastgroup or "", found.group()) for found in _TOKEN.finditer(expression)]
    tokens = [token for token in tokens if token[0] != "skip"]
    tokens.append(("end", ""))
    result = Named([], set(), set())
    at = 0
    while tokens[at][0] != "end":
        kind, text = tokens[at]
        after = tokens[at + 1][1]
        at += 1
        if kind == "sign" and text == "{":
            raise ValueError(f"a selector without a metric's name: {expression}")
        if kind != "name" or text.lower() in _WORDS:
            continue
        if text.lower() in _LISTS:
            if after == "(":
                at, labels = _until(tokens, at + 1, ")")
                result.grouped.update(label for kind, label in labels if kind == "name")
        elif after == "{":
            at, matchers = _until(tokens, at + 1, "}")
            result.selectors.append((text, _matchers(matchers)))
        elif after == "(" or (after.lower() in _LISTS and tokens[at + 1][1] == "("):
            if text == "label_replace":
                result.made.add(_made_label(tokens, at))
        else:
            result.selectors.append((text, {}))
    return result


def _until(tokens: list[tuple[str, str]], at: int, closing: str) -> tuple[int, list[tuple[str, str]]]:
    for end in range(at, len(tokens)):
        if tokens[end] == ("sign", closing):
            return end + 1, tokens[at:end]
    raise ValueError(f"no {closing}")


def _matchers(tokens: list[tuple[str, str]]) -> dict[str, str]:
    """label, sign, value, comma, …"""
    return {tokens[at][1]: tokens[at + 2][1][1:-1] for at in range(0, len(tokens), 4)}


def _made_label(tokens: list[tuple[str, str]], at: int) -> str:
    """The first string of label_replace(v, "label", …): what `v` has of strings is in braces."""
    depth = 0
    for kind, text in tokens[at:]:
        depth += {"{": 1, "}": -1}.get(text, 0)
        if kind == "string" and depth == 0:
            return text[1:-1]
    raise ValueError("label_replace without a label")
