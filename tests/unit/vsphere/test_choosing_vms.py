"""Names are for people: an ambiguous one is refused with the candidates, and ids win over names."""

import pytest

from offhost.errors import NotFound
from offhost.ids import vm_id
from offhost.vsphere.inventory import choose
from offhost.vsphere.values import Vm


def vm(number: int, name: str, folder: str = "/DC0/vm") -> Vm:
    """A VM of the inventory."""
    return Vm(
        id=vm_id("vc", f"uuid-{number}"),
        moref=f"vm-{number}",
        name=name,
        folder=folder,
        power="on",
        template=False,
        host="esx1",
        datastores=("DS1",),
        change_tracking=True,
        consolidation_needed=False,
    )


WEB = vm(1, "web")
TWIN = vm(2, "web", "/DC0/vm/Test")
DB = vm(3, "db")
PRANK = vm(4, "vm-3")
ALL = [WEB, TWIN, DB, PRANK]


def test_a_unique_name_is_enough() -> None:
    assert choose(ALL, "db") == DB


def test_an_ambiguous_name_is_refused_with_every_candidate() -> None:
    with pytest.raises(NotFound) as raised:
        choose(ALL, "web")
    for candidate in (WEB, TWIN):
        assert f"{candidate.folder}/{candidate.name}" in raised.value.message
        assert candidate.id in raised.value.message


def test_a_path_tells_twins_apart() -> None:
    assert choose(ALL, "/DC0/vm/Test/web") == TWIN


def test_a_name_that_looks_like_an_id_does_not_take_its_place() -> None:
    assert choose(ALL, "vm-3") == DB


def test_names_are_matched_exactly() -> None:
    with pytest.raises(NotFound):
        choose(ALL, "DB")
