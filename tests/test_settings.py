"""The settings of a server: each default is the documented one, and the command's."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from server.auth import admin_key
from server.cli.commands.serve import serve
from server.settings import Settings

DEFAULTS: dict[str, Any] = {
    "grpc": "127.0.0.1:50051",
    "http": "127.0.0.1:8080",
    "metrics": None,
    "database": "sqlite:///signalbox.db",
    "migrate": True,
    "admin_key": "",
    "demo": False,
    "drain_seconds": 5,
    "grace_seconds": 10,
    "queue_events": 50_000,
    "match_retention_seconds": None,
    "audit_retention_seconds": 400 * 86_400,
    "quarantine_retention_seconds": 30 * 86_400,
    "quarantine_events": 100_000,
    "quarantine_bytes": 268_435_456,
    "tls": None,
    "rate_limits": False,
    "http_body_bytes": 1_048_576,
    "http_connections": None,
    "http_address_connections": None,
    "cors_origins": (),
    "push_networks": (),
    "log_calls": 0,
    "otel": False,
}

WORDS = {
    "metrics": "no key: `--metrics HOST:PORT` (`SIGNALBOX_METRICS`)",
    "drain_seconds": "For `--drain` seconds (5; `SIGNALBOX_DRAIN`)",
    "audit_retention_seconds": "for 400 days, unless `--audit-retention TIME` is set",
    "match_retention_seconds": "For ever, unless `--match-retention 30d` is set",
}
"""Sentences of docs/operations.md that state a default."""


def test_a_server_has_the_documented_settings_unless_told_otherwise() -> None:
    settings = Settings()
    assert {field.name: getattr(settings, field.name) for field in fields(Settings)} == DEFAULTS
    page = (Path(__file__).parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
    operations = " ".join(page.split())  # wherever its lines are broken
    for name, words in WORDS.items():
        assert words in operations, name


def test_the_command_has_the_defaults_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SIGNALBOX_")]:
        monkeypatch.delenv(name)
    taken = serve.make_context("serve", []).params
    assert {"dev": taken["dev"], "rate_limits": taken["rate_limits"]} == {"dev": False, "rate_limits": "off"}
    own = {name: taken[name] for name in DEFAULTS.keys() & taken.keys() - {"rate_limits"}}
    assert own == {name: DEFAULTS[name] for name in own}
    assert own.keys() == DEFAULTS.keys() - {"database", "demo", "rate_limits", "tls"}


@pytest.mark.parametrize(
    ("database", "file"),
    [
        ("sqlite:///signalbox.db", "signalbox.db.admin-key"),
        ("sqlite:////var/lib/signalbox.db", "/var/lib/signalbox.db.admin-key"),
        ("postgresql://localhost/signalbox", "signalbox.admin-key"),
    ],
)
def test_the_admin_key_is_kept_beside_the_database(database: str, file: str) -> None:
    assert admin_key.file_of(database) == Path(file)
