"""Tags on VMs of the simulated vCenter, put there over its REST interface with no code of the product between."""

import base64
import json
import ssl
from http.client import HTTPSConnection
from typing import Any

from support.vcenter import SimulatedVCenter

_TAGGING = "/rest/com/vmware/cis/tagging"


def tag(vcenter: SimulatedVCenter, vm: str, name: str) -> None:
    """Attach a tag, `category:name`, to a VM; both are made where they are not there."""
    ask = _session(vcenter)
    category, _, tag_name = name.partition(":")
    cardinality = {"description": "", "cardinality": "MULTIPLE", "associable_types": []}
    in_category = _found(ask, "category", category) or ask(
        "POST", f"{_TAGGING}/category", {"create_spec": {"name": category, **cardinality}}
    )
    made = (
        ask(
            "POST",
            f"{_TAGGING}/tag",
            {"create_spec": {"name": tag_name, "description": "", "category_id": in_category}},
        )
        if (there := _found(ask, "tag", tag_name)) is None
        else there
    )
    ask(
        "POST",
        f"{_TAGGING}/tag-association/id:{made}?~action=attach",
        {"object_id": {"id": vm, "type": "VirtualMachine"}},
    )


def _found(ask: Any, kind: str, name: str) -> str | None:
    ids = ask("GET", f"{_TAGGING}/{kind}") or ()
    return next((str(one) for one in ids if ask("GET", f"{_TAGGING}/{kind}/id:{one}")["name"] == name), None)


def _session(vcenter: SimulatedVCenter) -> Any:
    """Logged in, `ask(method, path, body)`; a call is a connection of its own."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    pair = base64.b64encode(f"{vcenter.user}:{vcenter.password}".encode()).decode()
    headers = {"Authorization": f"Basic {pair}"}

    def ask(method: str, path: str, body: object = None) -> Any:
        connection = HTTPSConnection(vcenter.host, vcenter.port, context=trusting)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, (path, answer.status, content)
        return json.loads(content).get("value") if content else None

    headers = {"vmware-api-session-id": ask("POST", "/rest/com/vmware/cis/session")}
    return ask
