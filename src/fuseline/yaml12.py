"""YAML by the rules of version 1.2 alone: ``no`` is a word, ``1e-3`` a number, and a key given twice is refused."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.resolver import VersionedResolver


class NotYamlError(ValueError):
    """The text is not YAML 1.2; the message is one line that says what and where."""


def parse(text: str) -> Any:
    """The tree that a text describes.

    Raises:
        NotYamlError: says what is wrong, and in which line.

    >>> parse("a: no") == {"a": "no"}, parse("1e-3")
    (True, 0.001)
    """
    try:
        return _yaml().load(text)
    except (YAMLError, ValueError, KeyError) as error:
        raise NotYamlError(_problem(error)) from None


def dump(tree: Any) -> str:
    """A tree as text, mappings in their own order."""
    out = StringIO()
    _yaml().dump(tree, out)
    return out.getvalue()


class _Resolver(VersionedResolver):
    """No dates, no binary numbers and no underscores in numbers, which ruamel.yaml keeps from version 1.1."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        number, text = str(tag).endswith((":int", ":float")), str(value)
        word = str(tag).endswith(":timestamp") or (number and ("_" in text or text.lstrip("+-").startswith("0b")))
        return self.DEFAULT_SCALAR_TAG if word and kind is ScalarNode else tag


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Resolver
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    return yaml


def _problem(error: Exception) -> str:
    problem = str(getattr(error, "problem", None) or error or type(error).__name__).splitlines()[0].strip()
    mark = getattr(error, "problem_mark", None)
    return problem + (f" (line {mark.line + 1})" if mark is not None else "")
