"""The commands `definition plan` and `definition apply` for definitions in files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from server.cli.arguments.options import option
from server.cli.arguments.value_parsers import STDIN, FilePath
from server.cli.client.session import client_command
from server.cli.definitions.documents import read_definitions
from server.cli.definitions.plan import Action, make_plan
from server.cli.errors import CheckCommand, Failure
from server.cli.output.json_text import to_json
from server.cli.output.tables import print_json, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from server.cli.client.session import Session
    from server.cli.definitions.plan import Difference, Plan, Step
    from signalbox.v1 import event_definitions_pb2 as pb

_TEXTS = ("description", "suggested_values")
_SIGNS = {Action.CREATE: ("+", "green"), Action.UPDATE: ("~", "yellow"), Action.UNCHANGED: ("=", None)}


files_option = option(
    "-f",
    "--file",
    "paths",
    type=FilePath(stream=STDIN),
    metavar="PATH",
    multiple=True,
    required=True,
    help="A file, or a folder with all its .yaml and .yml files at any depth; - for stdin. (repeatable)",
)


@click.command(cls=CheckCommand)
@files_option
@client_command
async def plan(session: Session, paths: tuple[Path, ...]) -> None:
    """Show what the files would change, and whether the server would accept it. Changes nothing.

    Exits with 0 if every change is allowed, 2 if one is incompatible, 1 after any other error.
    """
    planned = await make_plan(session, read_definitions(paths))
    if session.json:
        print_json(_plain(planned))
    else:
        _show(planned)
    raise click.exceptions.Exit(planned.exit_code)


@click.command(cls=CheckCommand)
@files_option
@client_command
async def apply(session: Session, paths: tuple[Path, ...]) -> None:
    """Create and update the definitions of the files on the server. Definitions in no file are not changed.

    Shows the plan first. If any change is rejected, nothing is applied. The exit codes are those of `plan`. A
    definition that was changed after the plan was made is not overwritten.
    """
    planned = await make_plan(session, read_definitions(paths))
    if not session.json:
        _show(planned)
    applied: list[pb.EventDefinition] = []
    try:
        if planned.exit_code == 0:
            await make_changes(session, planned.changes, applied)
    finally:
        if session.json:
            print_json(_plain(planned) | {"applied": [definition.name for definition in applied]})
    if planned.exit_code and not session.json:
        click.echo("nothing was applied", err=True)
    raise click.exceptions.Exit(planned.exit_code)


async def make_changes(session: Session, steps: Sequence[Step], applied: list[pb.EventDefinition]) -> None:
    """Send the changes, and add each to `applied`. Raise Failure with the progress at the first that fails."""
    for step in steps:
        try:
            definition = await step.send(session)
        except Failure as failure:
            raise _stopped(step, failure, [earlier.name for earlier in applied], len(steps)) from failure
        applied.append(definition)
        if not session.json:
            done = "created" if step.current is None else "updated"
            click.echo(f"{done} {printable(definition.name)}, revision {definition.revision}")


def _stopped(step: Step, failure: Failure, applied: Sequence[str], count: int) -> Failure:
    before = f"applied before it: {printable(', '.join(applied))}" if applied else "nothing was applied before it"
    left = count - len(applied) - 1
    details = [
        *failure.details,
        before,
        f"not attempted: {left} more" if left else "no change was left",
        "run apply again to continue",
    ]
    message = f'stopped at "{printable(step.document.name)}": {failure.message}'
    return Failure(message, details, failure.reason, failure.violations)


def _show(planned: Plan) -> None:
    """Print the steps with their differences, and a summary."""
    for step in planned.steps:
        _show_step(step)
    if planned.not_in_files:
        click.echo(f"not in the files: {printable(', '.join(planned.not_in_files))}")
    counts = planned.counts()
    words = ("to create", "to change", "incompatible", "rejected", "unchanged")
    parts = [f"{count} {word}" for count, word in zip(counts.values(), words, strict=True) if count]
    click.echo(", ".join(parts))


def _show_step(step: Step) -> None:
    sign, colour = _SIGNS[step.action]
    revision = f", revision {step.current.revision}" if step.current is not None else ""
    click.secho(printable(f"{sign} {step.document.name}  ({step.action}{revision}; {step.document.place})"), fg=colour)
    for difference in step.differences:
        _show_difference(difference)
    for line in _refusal_lines(step):
        click.secho(printable(f"    ! {step.verdict}: {line}"), fg="red")


def _refusal_lines(step: Step) -> list[str]:
    if step.refusal is None:
        return []
    violations = [(violation.reason, violation.path, violation.message) for violation in step.refusal.violations]
    return [
        f"{reason}: {message}" if message.startswith(path) else f"{reason}: {path}: {message}"
        for reason, path, message in violations or [(step.refusal.reason, "", step.refusal.message)]
    ]


def _show_difference(difference: Difference) -> None:
    name = " ".join(
        part
        for part in (difference.path, "" if difference.path and difference.field == "type" else difference.field)
        if part
    )
    before, after = (_shown(difference.field, value) for value in (difference.before, difference.after))
    if difference.before is None:
        line, colour = f"+ {name}: {after}", "green"
    elif difference.after is None:
        line, colour = f"- {name}: {before}", "red"
    else:
        line, colour = f"~ {name}: {before} -> {after}", "yellow"
    click.secho(printable(f"    {line}"), fg=colour)


def _shown(field: str, value: Any) -> str:
    return to_json(value) if field in _TEXTS or isinstance(value, bool) else str(value)


def _plain(planned: Plan) -> dict[str, Any]:
    return {
        "definitions": [_plain_step(step) for step in planned.steps],
        "not_in_files": list(planned.not_in_files),
        "summary": planned.counts(),
    }


def _plain_step(step: Step) -> dict[str, Any]:
    refusal = step.refusal
    return {
        "name": step.document.name,
        "place": step.document.place,
        "action": step.action,
        "verdict": step.verdict,
        "differences": [difference._asdict() for difference in step.differences],
        "reason": refusal.reason if refusal else "",
        "message": refusal.message if refusal else "",
        "violations": [{"path": one.path, "reason": one.reason, "message": one.message} for one in refusal.violations]
        if refusal
        else [],
    }
