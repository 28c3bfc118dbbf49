"""What the sections of both files have in common: their strictness, and the kinds of value they share.

Owns: refusing a known but absent feature by name, and values that people write with units.
Does not own: the keys themselves (proxy, job).
"""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError

from offhost.config.secret import Secret
from offhost.retention import parse_age


class Section(BaseModel):
    """A mapping in a file. Immutable; a key that is not declared is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)

    later: ClassVar[frozenset[str]] = frozenset()
    """Keys whose feature does not exist yet: refused as such, not as unknown."""


def wrong(message: str, hint: str) -> PydanticCustomError:
    """A mistake with its mend, for validators to raise."""
    return PydanticCustomError("wrong", "{message}", {"message": message, "hint": hint})


def not_yet(*values: str) -> BeforeValidator:
    """Refuse values that offhost is going to know as what they are: not supported yet."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value in values:
            raise wrong(f"`{value}` is not supported yet", "take it out; this version of offhost cannot do it")
        return value

    return BeforeValidator(check)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise wrong("not an absolute path", "begin it with /: a daemon has no directory of its own to start from")
    return path


def _percent(value: Any) -> Any:
    found = re.fullmatch(r"(\d{1,2}(?:\.\d+)?) ?%", value) if isinstance(value, str) else None
    if found is None:
        raise wrong("not a percentage", "write it as 10%")
    return float(found[1]) / 100


def _minutes(value: Any) -> Any:
    found = re.fullmatch(r"(\d{1,4}) ?(m|h)", value) if isinstance(value, str) else None
    if found is None:
        raise wrong("not a duration", "write it as 15m or 2h")
    return int(found[1]) * (60 if found[2] == "h" else 1)


def _rate(value: Any) -> Any:
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?) ?(KiB|MiB|GiB)/s", value) if isinstance(value, str) else None
    if found is None or float(found[1]) == 0:
        raise wrong("not a rate", "write it as 200MiB/s")
    return float(found[1]) * {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[found[2]]


def _milliseconds(value: Any) -> Any:
    found = re.fullmatch(r"(\d{1,5}) ?ms", value) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise wrong("not a latency", "write it as 30ms")
    return int(found[1])


def _age(value: Any) -> Any:
    try:
        return parse_age(value if isinstance(value, str) else "")
    except ValueError as error:
        raise wrong("not a length of time", str(error)) from None


def _tag(text: str) -> str:
    category, separator, name = text.partition(":")
    if not (category and separator and name):
        raise wrong("not a tag with its category", 'write it as "backup:nightly"; "backup:*" is any of the category')
    return text


def _secret(value: Any) -> Secret:
    secret = Secret.parse(value) if isinstance(value, str) else None
    if secret is None:
        raise wrong(
            "a secret is a reference, never a value",
            'write "{credential NAME}", "{file /PATH}" or "{env NAME}", in quotes',
        )
    return secret


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name that can stand in a URL, a file name and a metric's label."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Tag = Annotated[Text, AfterValidator(_tag)]
"""`category:tag`, a pattern."""
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Fraction = Annotated[float, BeforeValidator(_percent)]
Minutes = Annotated[int, BeforeValidator(_minutes)]
Rate = Annotated[float, BeforeValidator(_rate)]
"""Bytes a second."""
Milliseconds = Annotated[int, BeforeValidator(_milliseconds)]
Age = Annotated[timedelta, BeforeValidator(_age)]
SecretReference = Annotated[Secret, BeforeValidator(_secret)]
