"""The command `definition test`: run cases and report them as lines, JSON or JUnit XML."""

from __future__ import annotations

from functools import partial
from typing import IO, TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import click

from server.cli.arguments.options import debug_option, json_option, option
from server.cli.arguments.value_parsers import STDIN, FilePath
from server.cli.definitions.cases import read_cases, run_case
from server.cli.definitions.files import files_option
from server.cli.output.json_text import to_json
from server.cli.output.tables import print_json, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from registry.errors import Violation
    from server.cli.definitions.cases import Mismatch, Result

    Tested = Sequence[tuple[Path, Sequence[Result]]]


@click.command()
@files_option
@option(
    "-d",
    "--definitions",
    type=FilePath(stream=STDIN),
    metavar="PATH",
    multiple=True,
    help="A file or folder of definitions, instead of those that the files name; - for stdin. (repeatable)",
)
@option(
    "--junit",
    type=click.File("wb", lazy=True),
    metavar="FILE",
    help="Also write JUnit XML; - for stdout, which sends the report to stderr.",
)
@json_option
@debug_option
@click.pass_obj
def test(
    shared: dict[str, Any], paths: tuple[Path, ...], definitions: tuple[Path, ...], junit: IO[bytes] | None
) -> None:
    """Validate example payloads against definitions in files, as a server does. Needs no server.

    Exits with 1 if a case fails or a file is invalid.
    """
    if any(path is STDIN for path in paths) and any(path is STDIN for path in definitions):
        raise click.UsageError("-f - and -d - both read stdin: give one of them a file")
    on_stdout = junit is not None and junit.name == "-"
    if on_stdout and shared["json"]:
        raise click.UsageError("--json and --junit - both write to stdout: give --junit a file")
    tested = [(each.path, [run_case(case) for case in each.cases]) for each in read_cases(paths, definitions)]
    results = [result for _, some in tested for result in some]
    failed = sum(bool(result.mismatches()) for result in results)
    if shared["json"]:
        cases = [_plain(result) for result in results]
        print_json({"cases": cases, "passed": len(results) - failed, "failed": failed})
    else:
        _show(results, failed, err=on_stdout)
    if junit is not None:
        junit.write(junit_xml(tested))
    if failed:
        raise click.exceptions.Exit(1)


def junit_xml(tested: Tested) -> bytes:
    """Return JUnit XML: a suite for each file, a test case for each case, and one failure with all mismatches."""
    root = ET.Element("testsuites", _totals("definition test", [each for _, some in tested for each in some]))
    for path, results in tested:
        suite = ET.SubElement(root, "testsuite", _totals(printable(str(path)), results))
        for result in results:
            _add_case(suite, result)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _totals(name: str, results: Sequence[Result]) -> dict[str, str]:
    return {
        "name": name,
        "tests": str(len(results)),
        "failures": str(sum(bool(result.mismatches()) for result in results)),
        "errors": "0",
        "time": f"{sum(result.seconds for result in results):.3f}",
    }


def _add_case(suite: ET.Element, result: Result) -> None:
    case = result.case
    facts = {"name": printable(case.name), "classname": printable(case.event), "time": f"{result.seconds:.3f}"}
    element = ET.SubElement(suite, "testcase", facts)
    if mismatches := result.mismatches():
        message = printable(_mismatch_text(mismatches[0]))
        failure = ET.SubElement(element, "failure", {"type": "Mismatch", "message": message})
        failure.text = "\n".join([printable(case.place), *_details(result)])


def _show(results: Sequence[Result], failed: int, *, err: bool) -> None:
    echo = partial(click.secho, err=err)
    for result in results:
        case = result.case
        passed = not result.mismatches()
        title = printable(f"{case.event}: {case.name}")
        if passed:
            echo(f"ok      {title}", fg="green")
        else:
            echo(f"FAILED  {title}  ({printable(case.place)})", fg="red")
            for line in _details(result):
                echo(f"        {line}")
    count = "1 case" if len(results) == 1 else f"{len(results)} cases"
    echo(f"{count}: {len(results) - failed} ok, {failed} failed")


def _details(result: Result) -> list[str]:
    """Return the mismatches and the violations, one a line."""
    return [
        printable(line)
        for line in (*map(_mismatch_text, result.mismatches()), *map(_violation_text, result.violations))
    ]


def _mismatch_text(mismatch: Mismatch) -> str:
    return f"{mismatch.what}: expected {to_json(mismatch.expected)}, got {to_json(mismatch.got)}"


def _violation_text(violation: Violation) -> str:
    return f"{violation.path}: {violation.reason}: {violation.message}"


def _plain(result: Result) -> dict[str, Any]:
    return {
        "name": result.case.name,
        "event": result.case.event,
        "place": result.case.place,
        "passed": not result.mismatches(),
        "mismatches": [each._asdict() for each in result.mismatches()],
        "valid": result.valid,
        "properties": result.properties,
        "coercions": [
            {"path": each.path, "kind": each.kind, "from": each.before, "to": each.after} for each in result.coercions
        ],
        "violations": [
            {"path": each.path, "reason": each.reason, "message": each.message} for each in result.violations
        ],
    }
