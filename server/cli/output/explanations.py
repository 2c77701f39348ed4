"""Views of conditions and explanations: trees with one clause a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from server.cli.arguments.enums import REASON_KIND, VERDICT
from server.cli.output.json_text import to_json
from server.cli.output.tables import printable, to_plain
from signalbox.v1 import automations_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

_COLOURS: Final = {
    pb.VERDICT_TRUE: "green",
    pb.VERDICT_FALSE: "red",
    pb.VERDICT_MISSING: "yellow",
    pb.VERDICT_ERROR: "yellow",
}


def verdict_text(verdict: pb.Verdict.ValueType) -> str:
    """Return the name of a verdict in its colour, which click removes if the output is no terminal."""
    name = VERDICT.name(verdict).replace("_", " ").upper()
    return click.style(name, fg=_COLOURS.get(verdict))


def show_trace(trace: Iterable[pb.Clause], indent: int = 0) -> None:
    """Print clauses, each below its parent."""
    for clause in trace:
        click.echo(f"{' ' * (indent + 2 * clause.depth)}{verdict_text(clause.verdict)}  {printable(_clause(clause))}")


def show_explanation(explanation: pb.AutomationExplanation) -> None:
    """Print why an event matched one automation or did not."""
    outcome = click.style("matched", fg="green") if explanation.matched else click.style("did not match", fg="red")
    click.echo(f"{printable(explanation.automation_name)} ({explanation.automation_id}): {outcome}")
    for reason in explanation.outside_reasons:
        run = f" (run {reason.run_id})" if reason.run_id else ""
        kind = REASON_KIND.name(reason.kind).replace("_", " ")
        click.echo(f"  {click.style(kind, fg='yellow')}  {printable(reason.message)}{run}")
    if explanation.trace:
        show_trace(explanation.trace, 2)
    else:
        click.echo("  no condition: every event of this name matches")
    if explanation.match_id:
        click.echo(f"  recorded as match {explanation.match_id}, which started run {explanation.run_id}")


def _clause(clause: pb.Clause) -> str:
    text = " ".join(clause.expression.split())
    if clause.HasField("actual"):
        text += f"   [{clause.path} is {to_json(to_plain(clause)['actual'])}{'…' if clause.actual_truncated else ''}]"
    if clause.message:
        text += f"   [{clause.message}]"
    return text
