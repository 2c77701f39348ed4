"""A public client of another system with the base URL of the bridge, and no other change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import resend

from tests.support.bridge import ID, calling
from tests.support.messages import ADA

if TYPE_CHECKING:
    from tests.support.service import Service

NAME = "user.created"
STEPS = [
    {"key": "start", "type": "trigger", "config": {"event_name": NAME}},
    {"key": "mail", "type": "send_email", "config": {"template_id": "tpl_1"}},
]


@pytest.mark.parametrize("mount", ["", "/opensend"])
async def test_the_client_of_resend_calls_the_api_of_opensend(
    lasting_service: Service, mount: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(lasting_service, await lasting_service.project(), "opensend") as caller:
        monkeypatch.setattr(resend, "api_url", f"http://{lasting_service.http_address}{mount}")
        monkeypatch.setattr(resend, "api_key", caller.secret)
        await asyncio.to_thread(_use)


def _use() -> None:
    """Call what the client offers for events, automations, runs and contacts."""
    made: Any = resend.Events.create({"name": NAME})
    assert made["id"] == ID
    found: Any = resend.Events.get(NAME)
    assert (found["id"], found["schema"]) == (made["id"], None)
    listed: Any = resend.Events.list({"limit": 5})
    assert [each["name"] for each in listed["data"]] == [NAME]
    automation: Any = resend.Automations.create(
        {"name": "Welcome", "status": "enabled", "steps": STEPS, "connections": [{"from": "start", "to": "mail"}]}  # type: ignore[typeddict-item]
    )
    sent: Any = resend.Events.send({"event": NAME, "email": ADA, "payload": {"plan": "pro"}})
    (run,) = sent["automation_runs"]
    runs: Any = resend.Automations.Runs.list(automation["id"])
    assert [each["id"] for each in runs["data"]] == [run["id"]]
    stopped: Any = resend.Automations.stop(automation["id"])
    assert stopped["status"] == "disabled"
    removed: Any = resend.Automations.remove(automation["id"])
    assert removed["deleted"] is True
    contact: Any = resend.Contacts.get(email=ADA)
    assert contact["id"] == sent["delivery"]["contact_id"]
    gone: Any = resend.Events.remove(NAME)
    assert gone["deleted"] is True
    with pytest.raises(resend.exceptions.ResendError) as refused:
        resend.Events.get(NAME)
    assert refused.value.code == 404
