"""The tests of each module, and the mutations without effect.

A module's tests are those that run in this process and are about it; tests of the command line, of crashes and of the
long promises start processes that no mutation reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.mutants.trial import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

EQUIVALENT_FILE = ROOT / "tests" / "mutants" / "equivalent.txt"


@dataclass(frozen=True)
class Focus:
    """Modules, by patterns of their paths, and their test files."""

    package: str
    paths: tuple[str, ...]
    tests: tuple[str, ...]
    postgresql: bool = False

    def modules(self) -> Iterator[str]:
        """Return the paths of the modules."""
        for pattern in self.paths:
            found = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
            if not found:
                raise SystemExit(f'No module matches "{pattern}"')
            yield from (path for path in found if not path.endswith("__init__.py"))

    def files(self) -> list[str]:
        """Return the paths of the test files."""
        return [f"tests/test_{name}.py" for name in self.tests]


FOCUSES: Final = (
    Focus(
        "conditions",
        ("automation/conditions/*.py",),
        ("conditions_index", "conditions", "conditions_oracle", "conditions_tracing"),
    ),
    Focus(
        "automation",
        ("automation/*.py", "automation/subscriptions/*.py"),
        ("automations", "conditions_in_service", "consume", "leasing", "opensend_automations", "plans", "renaming",
         "retention", "run_store", "runs", "subscriptions", "watch"),
    ),
    Focus(
        "registry",
        ("registry/*.py", "registry/codegen/*.py"),
        ("coercion", "compatibility", "definitions", "errors", "fields", "generated_types", "log_ids", "revisions",
         "schema", "suggestions", "timestamps", "undo"),
    ),
    Focus(
        "server",
        ("server/*.py", "server/auth/*.py", "server/background/*.py", "server/delivery/*.py", "server/services/*.py"),
        ("match_hub", "recurring", "access", "admin_key", "automations", "backtest", "consume", "contacts",
         "definitions", "errors", "explain", "generated_types", "grpc_server", "paging", "projects", "retention",
         "runs", "subscriptions", "undo", "watch"),
    ),
    Focus(
        "server/ingest",
        ("server/ingest/*.py",),
        ("catalog", "ingest", "queue", "conditions_in_service", "contacts", "definitions", "drafts", "renaming", "runs",
         "watch"),
    ),
    Focus(
        "server/api",
        ("server/api/**/*.py",),
        ("access", "automations", "backtest", "consume", "contacts", "definitions", "errors", "explain",
         "generated_types", "grpc_server", "ingest", "paging", "projects", "retention", "revisions", "runs", "structs",
         "subscriptions", "timestamps", "tls", "undo", "watch"),
    ),
    Focus(
        "server/bridge",
        ("server/bridge/**/*.py",),
        ("arsel", "autosend", "bridge", "emailsendx", "openapi", "opensend", "opensend_automations"),
    ),
    Focus(
        "server/storage",
        ("server/storage/*.py",),
        ("contact_store", "log_store", "migrations", "postgres_url", "storage", "contacts", "ingest", "plans",
         "projects", "queue", "undo"),
        postgresql=True,
    ),
)  # fmt: skip


def on_postgres(test: str) -> str:
    """Return the name of the same test on PostgreSQL."""
    return test.replace("[sqlite", "[postgresql")


def equivalent() -> dict[str, str]:
    """Return the mutations that no test can notice, by name, each with the reason."""
    lines = EQUIVALENT_FILE.read_text().splitlines()
    kept = [line for line in lines if line and not line.startswith("#")]
    return dict(line.split("  # ", 1) for line in kept)
