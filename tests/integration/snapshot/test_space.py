"""The free-space guard."""

import pytest

from offhost.errors import LowSpace
from offhost.snapshot.space import check_free_space
from offhost.vsphere.inventory import datastores_of
from support.held_vms import HeldVm

pytestmark = pytest.mark.vsim


async def test_a_datastore_with_room_lets_the_snapshot_be_taken(web: HeldVm) -> None:
    await check_free_space(web.vsphere, web.vm, min_free=0.0)


async def test_a_full_datastore_is_named_with_its_room(web: HeldVm) -> None:
    (store,) = await datastores_of(web.vsphere, web.vm)
    free = store.free_bytes / store.capacity_bytes
    with pytest.raises(LowSpace, match=r"web: the datastore DS1 has .* free"):
        await check_free_space(web.vsphere, web.vm, min_free=free + 0.05)
