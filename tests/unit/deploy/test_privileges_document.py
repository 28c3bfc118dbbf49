"""deploy/PRIVILEGES.md says what the table in the code says."""

from offhost.vsphere.privileges import NEEDS
from support.privilege_tables import DOCUMENT, rendered


def test_the_document_is_the_tables() -> None:
    written = DOCUMENT.read_text()
    hint = "write it anew: PYTHONPATH=tests python -m support.privilege_tables"
    assert written == rendered(written), hint


def test_every_privilege_is_in_the_document() -> None:
    written = DOCUMENT.read_text()
    for privileges in NEEDS.values():
        for privilege in privileges:
            assert f"`{privilege.id}` | {privilege.on}" in written
