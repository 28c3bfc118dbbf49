"""What a model refused, told at its place in the file and with the mend.

Owns: the words. Does not own: the rules (the models) nor the places (yaml).
"""

import difflib
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from offhost.config.section import Section
from offhost.config.yaml import Document
from offhost.errors import ConfigError


def mistakes(document: Document, model: type[Section], refused: ValidationError) -> Iterator[ConfigError]:
    """Each error of a validation as a ConfigError."""
    errors = refused.errors(include_url=False, include_input=False)
    for error in errors:
        path = [step for step in error["loc"] if step != "[key]"]
        if error["type"] == "too_short" and any(_within(other["loc"], error["loc"]) for other in errors):
            continue  # it is short because its items were refused, which is said already
        if error["type"] == "extra_forbidden":
            yield _unknown_key(document, path, _model_at(model, path[:-1]))
        elif error["type"] == "missing":
            hint = _description(model, path)
            yield document.mistake(path, "is missing", hint=f"add it: {hint}" if hint else "add it")
        else:
            hint = error.get("ctx", {}).get("hint") or _description(model, path)
            yield document.mistake(path, _words(error), hint=hint, at_key="[key]" in error["loc"])


def _unknown_key(document: Document, path: Sequence[str | int], model: type[Section] | None) -> ConfigError:
    key = str(path[-1])
    known = sorted(model.model_fields) if model else []
    if model and key in model.later:
        message, hint = "is not supported yet", "take it out; this version of offhost does not have it"
    else:
        near = difflib.get_close_matches(key, known, n=1)
        message = "unknown key"
        hint = f"did you mean `{near[0]}`?" if near else f"keys here: {', '.join(known)}"
    return document.mistake(path, message, hint=hint, at_key=True)


def _within(inner: Sequence[str | int], outer: Sequence[str | int]) -> bool:
    return len(inner) > len(outer) and tuple(inner[: len(outer)]) == tuple(outer)


_WORDS = {
    "string_pattern_mismatch": "letters, digits, dot, dash and underscore only, at most 64, first a letter or digit",
    "string_type": "should be text: put it in quotes",
    "model_type": "should be a mapping, `key: value`",
    "dict_type": "should be a mapping, `key: value`",
    "tuple_type": "should be a list",
    "too_short": "needs at least one entry",
}


def _words(error: ErrorDetails) -> str:
    if error["type"] in _WORDS:
        return _WORDS[error["type"]]
    words = error["msg"].removeprefix("Input ")
    return words[:1].lower() + words[1:]


def _description(model: type[Section], path: Sequence[str | int]) -> str | None:
    """What the option at `path` is: its own declaration says it."""
    for length in range(len(path), 0, -1):
        parent = _model_at(model, path[: length - 1])
        field = parent.model_fields.get(str(path[length - 1])) if parent else None
        if field is not None:
            return field.description
    return None


def _model_at(model: type[Section], path: Sequence[str | int]) -> type[Section] | None:
    """The section that stands at `path`; None where no section does."""
    here: Any = model
    for step in path:
        here = _beneath(here, step)
    return here if isinstance(here, type) and issubclass(here, Section) else None


def _beneath(annotation: Any, step: str | int) -> Any:
    """The type one step down: a section's field, or what a tuple or mapping holds; the section in `Section | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        field = annotation.model_fields.get(str(step))
        below = field.annotation if field else None
    else:
        below = next((held for held in reversed(get_args(annotation)) if held is not ...), None)
    if get_origin(below) is UnionType:
        below = next((held for held in get_args(below) if held is not NoneType), None)
    return below
