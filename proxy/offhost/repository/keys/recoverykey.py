"""A recovery key: 160 random bits as text that a person can write down and type in again.

Owns: the text (FORMAT.md, "Recovery keys") and its check characters. Does not own: what the key opens (wrappers).
"""

import re
import secrets
from dataclasses import dataclass, field
from typing import ClassVar

from offhost.errors import UsageError

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no I, L, O, U
_VALUES = {symbol: value for value, symbol in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_GROUPS = 8
_DATA_SYMBOLS, _GROUP_SYMBOLS = 4, 5
_KEY_BYTES = _GROUPS * _DATA_SYMBOLS * 5 // 8


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """20 random bytes. Never printed by accident: left out of the repr."""

    key: bytes = field(repr=False)

    kind: ClassVar[str] = "recovery"
    name: ClassVar[str] = "recovery key"

    @classmethod
    def new(cls) -> "RecoveryKey":
        """A fresh one."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    def text(self) -> str:
        """Eight groups of five characters, the last of each being its check."""
        number = int.from_bytes(self.key, "big")
        values = [number >> 5 * at & 31 for at in reversed(range(_GROUPS * _DATA_SYMBOLS))]
        groups = [values[at : at + _DATA_SYMBOLS] for at in range(0, len(values), _DATA_SYMBOLS)]
        return "-".join(
            "".join(_ALPHABET[value] for value in (*group, _check(place, group))) for place, group in enumerate(groups)
        )

    @classmethod
    def parse(cls, text: str) -> "RecoveryKey":
        """Read what `text` wrote, in letters of any case, however it is grouped, O for 0 and I or L for 1.

        Raises: UsageError that names the groups that are mistyped, and never what was typed.
        """
        groups = [group for group in re.split(r"[\s-]+", text.upper()) if group]
        if len(groups) != _GROUPS:
            joined = "".join(groups)
            if len(joined) != _GROUPS * _GROUP_SYMBOLS:
                raise UsageError(
                    f"not a recovery key: it has {len(joined)} characters, where {_GROUPS * _GROUP_SYMBOLS} are needed",
                    hint="eight groups of five letters and digits, as `keys add --recovery` printed them",
                )
            groups = [joined[at : at + _GROUP_SYMBOLS] for at in range(0, len(joined), _GROUP_SYMBOLS)]
        wrong = [str(place + 1) for place, group in enumerate(groups) if not _sound(place, group)]
        if wrong:
            raise UsageError(
                f"the recovery key is mistyped in group {', '.join(wrong)} of {_GROUPS}",
                hint="compare those groups with what was written down, character by character",
            )
        number = 0
        for symbol in "".join(group[:_DATA_SYMBOLS] for group in groups):
            number = number << 5 | _VALUES[symbol]
        return cls(number.to_bytes(_KEY_BYTES, "big"))


def _sound(place: int, group: str) -> bool:
    if len(group) != _GROUP_SYMBOLS or any(symbol not in _VALUES for symbol in group):
        return False
    *data, check = (_VALUES[symbol] for symbol in group)
    return check == _check(place, data)


def _check(place: int, data: list[int]) -> int:
    """The check symbol of a group.

    A sum over GF(32) with a different weight for each symbol and a different start for each group: any one wrong
    character, any two of a group exchanged and any two groups exchanged are always noticed.
    """
    check = place + 1
    for power, value in enumerate(data, start=1):
        for _ in range(power):
            value = value << 1 ^ (0b100101 if value & 16 else 0)  # noqa: PLW2901 - times x, modulo x^5 + x^2 + 1
        check ^= value
    return check
