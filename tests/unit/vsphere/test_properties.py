"""Bulk reading: every page is fetched, unset properties are absent, hidden ones are errors."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyVmomi import vim, vmodl

from offhost.vsphere.properties import SELF, properties
from offhost.vsphere.soap import Live

Collector = vmodl.query.PropertyCollector


def found(number: int, *, hidden: Any = None, **values: object) -> Any:
    """One object's properties, as the collector answers."""
    content = Collector.ObjectContent(
        obj=vim.VirtualMachine(f"vm-{number}", None),
        propSet=[vmodl.DynamicProperty(name=name, val=value) for name, value in values.items()],
    )
    if hidden is not None:
        content.missingSet = [Collector.MissingProperty(path="config.keyId", fault=hidden)]
    return content


class Paged:
    """A collector with an answer of several pages, which the simulator never gives."""

    def __init__(self, *pages: list[Any]) -> None:
        self._pages = list(pages)

    def RetrievePropertiesEx(self, _specs: Any, _options: Any) -> Any:  # noqa: N802 -- pyVmomi's name
        return self._next()

    def ContinueRetrievePropertiesEx(self, _token: str) -> Any:  # noqa: N802 -- pyVmomi's name
        return self._next()

    def _next(self) -> Any:
        objects = self._pages.pop(0)
        return Collector.RetrieveResult(objects=objects, token="more" if self._pages else None)


def read(*pages: list[Any]) -> dict[str, dict[str, Any]]:
    """The rows of such an answer."""
    live = cast(Live, SimpleNamespace(content=SimpleNamespace(propertyCollector=Paged(*pages))))
    return properties(live, vim.VirtualMachine, [vim.VirtualMachine("vm-1", None)], ["name"])


def test_every_page_is_fetched() -> None:
    rows = read([found(1, name="a"), found(2, name="b")], [found(3, name="c")], [found(4, name="d")])
    assert [row["name"] for row in rows.values()] == ["a", "b", "c", "d"]


def test_an_unset_property_is_absent() -> None:
    assert read([found(1)])["vm-1"].keys() == {SELF}


def test_a_property_that_may_not_be_read_is_an_error_not_an_unset_one() -> None:
    with pytest.raises(vim.fault.NoPermission):
        read([found(1, hidden=vim.fault.NoPermission(privilegeId="System.Read"))])
