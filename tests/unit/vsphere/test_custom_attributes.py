"""Custom attributes are saved by their names: their keys differ from vCenter to vCenter."""

from pyVmomi import vim

from offhost.vsphere.configuration import _custom_attributes

Fields = vim.CustomFieldsManager
OWNER = Fields.FieldDef(key=101, name="owner", type=str)


def test_values_are_kept_under_their_names() -> None:
    row = {"availableField": [OWNER], "customValue": [Fields.StringValue(key=101, value="shop")]}
    assert _custom_attributes(row) == {"owner": "shop"}


def test_a_value_of_no_known_field_keeps_its_key() -> None:
    assert _custom_attributes({"customValue": [Fields.StringValue(key=7, value="x")]}) == {"7": "x"}


def test_a_vm_without_any_has_none() -> None:
    assert _custom_attributes({"availableField": [OWNER]}) == {}
