"""The modules of each package, the tests that they are tried with, and the mutations without effect.

These tests run in this process; tests of the command line, of crashes and of the long promises start processes that no
mutation reaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.mutants.trial import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

EQUIVALENT_FILE = ROOT / "tests" / "mutants" / "equivalent.txt"


@dataclass(frozen=True)
class Package:
    """Modules, by patterns of their paths."""

    name: str
    patterns: tuple[str, ...]

    def modules(self) -> Iterator[str]:
        """Return the paths of the modules."""
        for pattern in self.patterns:
            found = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
            if not found:
                raise SystemExit(f'No module matches "{pattern}"')
            yield from (path for path in found if not path.endswith("__init__.py"))


PACKAGES: Final = (
    Package("conditions", ("automation/conditions/*.py",)),
    Package("automation", ("automation/*.py", "automation/deletion/*.py", "automation/subscriptions/*.py")),
    Package("registry", ("registry/**/*.py",)),
    Package(
        "server",
        (
            "server/*.py",
            "server/app/*.py",
            "server/audit/*.py",
            "server/auth/*.py",
            "server/background/*.py",
            "server/current_call/*.py",
            "server/delivery/*.py",
            "server/logs/*.py",
            "server/process/*.py",
            "server/services/*.py",
            "server/sharing/*.py",
        ),
    ),
    Package("server/ingest", ("server/ingest/*.py",)),
    Package("server/api", ("server/api/**/*.py",)),
    Package("server/bridge", ("server/bridge/**/*.py",)),
    Package("server/http", ("server/http/**/*.py",)),
    Package("server/rpc", ("server/rpc/**/*.py",)),
    Package("server/storage", ("server/storage/*.py", "server/storage/[!m]*/*.py")),  # no migrations
)

TESTS: Final = tuple(
    f"tests/test_{name}.py"
    for name in (
        "access", "access_cache", "admin_key", "app", "arsel", "automations", "autosend", "backtest", "backtest_tally",
        "bounds", "bridge", "catalog", "coercion", "compatibility", "conditions", "conditions_in_service",
        "conditions_index", "conditions_oracle", "conditions_tracing", "connections", "consume", "consumer_sessions",
        "consumers", "contact_deletion", "contact_store", "contacts", "definitions", "delivery_messages", "dialects",
        "dispatcher", "dispatcher_waits", "drafts", "emails", "emailsendx", "errors", "event_streams", "explain",
        "fair_queue", "fields", "generated_types", "grpc_server", "http_bodies", "http_framing", "ingest",
        "internal_errors", "json_values", "leasing", "leasing_model", "log_ids", "log_store", "logs", "loop_time",
        "match_notifier", "match_reader", "match_reasons", "message_sizes", "messages", "metrics", "migrations",
        "open_calls", "openapi", "opensend", "opensend_automations", "paging", "plans", "postgres_url", "projects",
        "pruning", "queue", "recurring", "renaming", "resend", "response_size", "retention", "reverse_coercion",
        "revisions", "run_store", "run_timeouts", "runs", "runtime", "schema", "search", "settings", "shutdown",
        "sqlite_reads", "start_points", "statuses", "storage", "structs", "subscriptions", "suggestions", "texts",
        "timestamps", "tls", "typed_readers", "unreadable_matches", "unreadable_rows", "values", "watch",
    )
)  # fmt: skip

POSTGRES_TESTS: Final = tuple(
    f"tests/test_{name}.py" for name in ("contact_store", "log_store", "migrations", "queue", "run_store", "storage")
)
"""Those that are surveyed on PostgreSQL, too; of the others it is taken that they reach the same lines there."""


def on_postgres(test: str) -> str:
    """Return the name of the same test on PostgreSQL."""
    return test.replace("[sqlite", "[postgresql")


def equivalent() -> dict[str, str]:
    """Return the mutations that no test can notice, by name, each with the reason."""
    lines = EQUIVALENT_FILE.read_text().splitlines()
    kept = [line for line in lines if line and not line.startswith("#")]
    return dict(line.split("  # ", 1) for line in kept)
