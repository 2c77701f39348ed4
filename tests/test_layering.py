"""Who may import whom, and that generated code is what the protos say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf import descriptor_pool as pool

from server.rpc.contract import SERVICES
from signalbox.v1 import options_pb2

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterator, Mapping

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.checkout

PROTOS = sorted((ROOT / "protos").rglob("*.proto"))

APIS = {"server.api", "server.bridge", "server.cli", "server.connect", "server.http", "server.rpc"}
PROTOCOLS = {"signalbox", "grpc", "google", "starlette"}
CORE = APIS | PROTOCOLS | {"server.app", "tests"}
PACKAGES = {f"server/{path.parent.name}" for path in (ROOT / "server").glob("*/__init__.py")}
FORBIDDEN = {
    "registry": {"automation", "server", "tests", *PROTOCOLS},
    "automation": {"server", "tests", *PROTOCOLS},
    "server": {"tests"},
    **dict.fromkeys(PACKAGES - {"server/app"}, CORE),
    "server/rpc": {
        "server.api",
        "server.app",
        "server.bridge",
        "server.cli",
        "server.connect",
        "server.http",
        "grpc.aio",
    },
    "server/http": {
        "server.api",
        "server.app",
        "server.bridge",
        "server.cli",
        "server.connect",
        "server.rpc",
        "grpc",
        "signalbox",
    },
    "server/api": {"server.app", "server.bridge", "server.cli", "server.connect", "server.http"},
    "server/bridge": {"server.api", "server.app", "server.cli", "server.connect", "server.rpc", "grpc"},
    "server/connect": {"server.api", "server.app", "server.bridge", "server.cli", "grpc.aio"},
    "server/cli": {
        "server.api",
        "server.bridge",
        "server.connect",
        "server.delivery",
        "server.http",
        "server.ingest",
        "server.rpc.servicers",
        "server.services",
    },
}
"""What the modules of a package do not import, not even for type checkers; by default, no API.

The command line is a client of the server; only the commands on the database reach into `server.storage`.
"""


ROOTS = {"server.__main__", "server.bridge.app", "server.cli.main", "server.storage.opening"}
"""The modules that put a program, a transport or the storage together. They import the subpackages of their package."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def import_statements(module: Path) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Return the imports of a module, those for type checkers included, each with whether it is in no function."""
    found: list[tuple[ast.Import | ast.ImportFrom, bool]] = []
    waiting: list[tuple[ast.AST, bool]] = [(ast.parse(module.read_text()), True)]
    while waiting:
        node, at_top = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append((node, at_top))
        elif isinstance(node, ast.stmt | ast.mod | ast.ExceptHandler | ast.match_case):
            inside = at_top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            waiting += ((child, inside) for child in ast.iter_child_nodes(node))
    return found


def imported(module: Path) -> Iterator[str]:
    """Name what a module imports anywhere in it."""
    for node, _ in import_statements(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{module} imports relatively"
            yield node.module or ""


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_packages_import_in_one_direction(package: str) -> None:
    assert modules(package)
    wrong = [
        f"{module.relative_to(ROOT)} imports {name}"
        for module in modules(package)
        for name in imported(module)
        if any(name == forbidden or name.startswith(f"{forbidden}.") for forbidden in FORBIDDEN[package])
    ]
    assert wrong == []


def test_only_commands_on_the_database_reach_into_the_storage() -> None:
    reaching = {
        str(module.relative_to(ROOT))
        for module in modules("server/cli")
        for name in imported(module)
        if name.startswith("server.storage")
    }
    assert reaching == {"server/cli/commands/backups.py", "server/cli/commands/migrate.py"}


def test_tests_share_code_by_their_support_alone() -> None:
    shared = [
        f"{module.relative_to(ROOT)} imports {name}"
        for module in modules("tests")
        for name in imported(module)
        if name.startswith("tests.test_")
    ]
    assert shared == []


@pytest.mark.parametrize("package", ["registry", "server"])
def test_the_architecture_describes_every_subpackage_and_module(package: str) -> None:
    table = (ROOT / "docs/architecture.md").read_text().partition(f"| subpackage or module of `{package}/` |")[2]
    described = {name for row in table.partition("\n\n")[0].splitlines() for name in re.findall(r"`([^`]+)`", row[:50])}
    own = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / package).glob("[a-z]*")
        if [*path.glob("*.py")] or path.suffix
    }
    assert own - described == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(module_imports()) == []


@pytest.mark.parametrize("depth", [2, 9])
def test_no_packages_import_each_other_in_a_circle(depth: int) -> None:
    """With its subpackages a package is in no circle; nor is it by itself, so it imports them or they import it."""
    imports = module_imports()
    packages = {module.rpartition(".")[0] for module in imports}
    found: dict[str, set[str]] = {}
    for module, names in imports.items():
        above = package_of(module, packages, depth)
        found.setdefault(above, set()).update(package_of(name, packages, depth) for name in names)
    assert set(found) >= {"automation", "server.delivery", "server.rpc", "server.storage"}
    assert circles({name: others - {name} for name, others in found.items()}) == []


def module_imports() -> dict[str, set[str]]:
    """Return what each module imports when it is loaded, the imports for type checkers included."""
    names = {name_of(module): module for package in ("registry", "automation", "server") for module in modules(package)}
    return {
        name: {found for found in imported_at_top(module, names) if found != name} for name, module in names.items()
    }


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str, packages: Container[str], depth: int) -> str:
    """Return the package of a module, of `depth` names at most; a root is by itself."""
    if module in ROOTS:
        return module
    package = module if module in packages else module.rpartition(".")[0]
    return ".".join(package.split(".")[:depth])


def imported_at_top(module: Path, names: Container[str]) -> Iterator[str]:
    """Name the modules that a module imports outside of its functions."""
    for node in (node for node, at_top in import_statements(module) if at_top):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        else:
            parts = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (part if part in names else str(node.module) for part in parts if str(node.module) in names)


def circles(imports: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others."""
    reached = {module: reachable(module, imports) for module in imports}
    groups = {frozenset(other for other in reached[module] if module in reached[other]) for module in imports}
    return sorted(sorted(group) for group in groups if group)


def reachable(module: str, imports: Mapping[str, Collection[str]]) -> set[str]:
    """Return what a module imports, directly or through others; itself only if it is in a circle."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = set(imports[waiting.pop()]) - found
        found |= new
        waiting += new
    return found


def test_generated_code_is_what_the_protos_say(tmp_path: Path) -> None:
    outputs = [f"--{kind}={tmp_path}" for kind in ("python_out", "grpc_python_out")]
    outputs += [f"--{kind}=quiet:{tmp_path}" for kind in ("mypy_out", "mypy_grpc_out")]
    plugins = [
        f"--plugin={name}={Path(sys.executable).parent / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'protos'}", *plugins, *outputs]
    subprocess.run([*command, *PROTOS], check=True, cwd=ROOT)
    made, committed = contents(tmp_path), contents(ROOT / "generated")
    assert made.keys() == committed.keys()
    assert [path for path, text in made.items() if text != committed[path]] == []


def test_both_sides_stream_only_where_another_rpc_does_the_same() -> None:
    for service in SERVICES:
        for method in service.methods:
            alternative = method.GetOptions().Extensions[options_pb2.alternative]
            both = method.client_streaming and method.server_streaming
            assert (alternative in service.methods_by_name) is both, method.full_name


def test_every_file_of_the_contract_says_how_other_languages_name_it() -> None:
    options = {
        file: pool.Default().FindFileByName(str(file.relative_to(ROOT / "protos"))).GetOptions() for file in PROTOS
    }
    named = {
        (each.go_package, each.java_package, each.java_multiple_files, each.csharp_namespace)
        for each in options.values()
    }
    assert named == {("signalbox/v1;signalboxv1", "signalbox.v1", True, "Signalbox.V1")}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.suffix in {".py", ".pyi"})
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
