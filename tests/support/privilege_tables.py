"""The generated parts of deploy/PRIVILEGES.md.

`PYTHONPATH=tests python -m support.privilege_tables` writes them anew.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from offhost.vsphere.privileges import BACKUP, NEEDS, Feature, ids

DOCUMENT = Path(__file__).resolve().parents[2] / "deploy" / "PRIVILEGES.md"
_PART = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ROLES = {
    "offhost-backup": BACKUP,
    "offhost-hosts": (Feature.HOST,),
    "offhost-power-off": (Feature.POWER_OFF,),
    "offhost-restore": (Feature.RESTORE,),
    "offhost-acceptance": (Feature.ACCEPTANCE,),
}


def rendered(document: str) -> str:
    """The document, with its generated parts as the table has it now."""
    parts = {"features": _features(), "govc": _govc(), "powercli": _powercli()}
    return _PART.sub(lambda found: f"{found[1]}{parts[found[2]]}{found[3]}", document)


def _features() -> str:
    rows = ["| feature | privilege | on | why |", "|---|---|---|---|"]
    for feature, privileges in NEEDS.items():
        rows += [f"| {feature} | `{one.id}` | {one.on} | {one.why} |" for one in privileges]
        if not privileges:
            rows.append(f"| {feature} | – | | read-only is enough |")
    return "\n".join(rows) + "\n"


def _govc() -> str:
    lines = [f"govc role.create {role} \\\n{_wrapped(ids(features), '    ', ' ')}" for role, features in _ROLES.items()]
    return "```sh\n" + "\n".join(lines) + "\n```\n"


def _powercli() -> str:
    lines = [
        f"New-VIRole -Name {role} -Privilege (Get-VIPrivilege -Id @(\n"
        + _wrapped([f"'{one}'" for one in ids(features)], "    ", ", ", end="")
        + "))"
        for role, features in _ROLES.items()
    ]
    return "```powershell\n" + "\n".join(lines) + "\n```\n"


def _wrapped(words: Iterable[str], indent: str, between: str, *, end: str = " \\") -> str:
    """Words on lines of at most 110 characters; each line but the last ends as a continued one does."""
    lines = list(_lines(words, between))
    continued = between.rstrip() + end
    return "\n".join(f"{indent}{line}{continued if at + 1 < len(lines) else ''}" for at, line in enumerate(lines))


def _lines(words: Iterable[str], between: str) -> Iterator[str]:
    line = ""
    for word in words:
        if line and len(line) + len(between) + len(word) > 100:
            yield line
            line = ""
        line = f"{line}{between}{word}" if line else word
    yield line


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(DOCUMENT.read_text()))
