"""Reading and writing how subscriptions push, and which server does it: the SQL of `subscription_push`.

Every function takes an open connection and neither begins nor ends a transaction. A writer of settings has locked the
subscription's row. Times are microseconds UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import and_, case, delete, insert, or_, select, update

from automation.subscriptions.push import Push, PushAttempt
from automation.subscriptions.store import lock_subscription, set_pushes, to_subscription
from automation.subscriptions.tables import subscription as subscription_table
from automation.subscriptions.tables import subscription_push
from registry.sql.text_columns import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection, Row, Select

    from automation.subscriptions.values import Subscription

_push = subscription_push.c
# Labelled, since the subscription has a version too.
_SETTINGS = [_push[field.name].label(f"push_{field.name}") for field in fields(Push)]
_JSON = {"secrets": tuple[str, ...], "headers": dict[str, str], "attempts": tuple[PushAttempt, ...]}


@dataclass(frozen=True, slots=True)
class ActivePush:
    """A subscription that pushes, the server that does it, and one that asks for it; each empty if there is none."""

    subscription: Subscription
    push: Push
    owner: str
    owned_until: int
    wanted_by: str


def pushes_of(connection: Connection, keys: Sequence[int]) -> dict[int, Push]:
    """Return how subscriptions push, by their keys; those without are left out."""
    if not keys:
        return {}
    query = select(_push.subscription_key, *_SETTINGS)
    rows = connection.execute(query.where(_push.subscription_key.in_(keys)))
    return {row.subscription_key: _to_push(row) for row in rows}


def write_push(connection: Connection, subscription: Subscription, push: Push | None) -> Subscription:
    """Store how a subscription pushes, None if it does not, and return the subscription as it then is."""
    columns = _columns(push) if push is not None else {}
    own = _push.subscription_key == subscription.key
    if push is None:
        connection.execute(delete(subscription_push).where(own))
    elif connection.execute(update(subscription_push).where(own).values(columns)).rowcount == 0:
        new = {"subscription_key": subscription.key, "owner": "", "owned_until": 0, "attempts": "[]"}
        connection.execute(insert(subscription_push).values(columns | new))
    return set_pushes(connection, subscription, pushes=push is not None and not push.paused_at)


def pause_push(connection: Connection, key: int, version: int, reason: str, now: int) -> bool:
    """Pause a subscription whose push has not changed since this version. Return whether it is paused now.

    Raise SubscriptionNotFound.
    """
    subscription = lock_subscription(connection, key)
    push = pushes_of(connection, [key]).get(key)
    if push is None or push.version != version or push.paused_at:
        return False
    paused = replace(push, paused_at=now, pause_reason=reason, version=version + 1)
    moved = replace(subscription, version=subscription.version + 1, updated_at=now)
    write_push(connection, moved, paused)
    return True


def active_pushes(connection: Connection) -> list[ActivePush]:
    """Return all subscriptions that push, of all projects, but those that cannot be read."""
    joined: Select[Any] = select(
        *as_text(subscription_table), _push.owner, _push.owned_until, _push.wanted_by, *_SETTINGS
    )
    query = joined.join(subscription_push, _push.subscription_key == subscription_table.c.key)
    count = len(subscription_table.columns)
    found = (
        ActivePush(to_subscription(row[:count]), _to_push(row), row.owner, row.owned_until, row.wanted_by)
        for row in connection.execute(query.where(subscription_table.c.pushes))
    )
    return [each for each in found if not each.subscription.unreadable]


def claim_pushes(connection: Connection, owner: str, now: int, until: int) -> set[int]:
    """Claim the subscriptions that nobody pushes, and renew the claims of the owner. Return the keys of both.

    Rows that another transaction holds are left to the next call.
    """
    free = or_(_push.owner == owner, _push.owned_until <= now)
    active = subscription_table.c.key == _push.subscription_key
    query = select(_push.subscription_key).join(subscription_table, active).where(subscription_table.c.pushes, free)
    # Locked in one order: servers that claim at the same time would deadlock otherwise.
    locked = query.order_by(_push.subscription_key).with_for_update(skip_locked=True, of=subscription_push)
    keys = [row.subscription_key for row in connection.execute(locked)]
    if keys:
        claimed = update(subscription_push).where(_push.subscription_key.in_(keys))
        # A server that asked an earlier owner may be gone by now.
        asked = case((_push.owner == owner, _push.wanted_by), else_="")
        connection.execute(claimed.values(owner=owner, owned_until=until, wanted_by=asked))
    return set(keys)


def ask_for_pushes(connection: Connection, owner: str, keys: Sequence[int]) -> None:
    """Ask the owners of subscriptions to hand these over, unless another server asks for them already."""
    own = and_(_push.subscription_key.in_(keys), _push.owner != owner, _push.wanted_by == "")
    connection.execute(update(subscription_push).where(own).values(wanted_by=owner))


def hand_over_pushes(connection: Connection, owner: str, keys: Sequence[int], until: int) -> None:
    """Make the servers that ask for an owner's subscriptions their owners, until a time."""
    asked = and_(_push.subscription_key.in_(keys), _push.owner == owner, _push.wanted_by != "")
    handed = update(subscription_push).where(asked)
    connection.execute(handed.values(owner=_push.wanted_by, owned_until=until, wanted_by=""))


def release_pushes(connection: Connection, owner: str) -> None:
    """End the claims of an owner, and withdraw its requests for others."""
    ended = {"owner": "", "owned_until": 0, "wanted_by": ""}
    connection.execute(update(subscription_push).where(_push.owner == owner).values(ended))
    connection.execute(update(subscription_push).where(_push.wanted_by == owner).values(wanted_by=""))


def write_attempts(connection: Connection, owner: str, attempts: Mapping[int, Sequence[PushAttempt]]) -> None:
    """Store the last requests of subscriptions, by their keys; only of those that the owner pushes."""
    for key, kept in attempts.items():
        own = and_(_push.subscription_key == key, _push.owner == owner)
        encoded = msgspec.json.encode(kept).decode()
        connection.execute(update(subscription_push).where(own).values(attempts=encoded))


def _columns(push: Push) -> dict[str, Any]:
    """Return the columns of settings; requests and the owner are written by themselves."""
    values = {field.name: getattr(push, field.name) for field in fields(push) if field.name != "attempts"}
    return {name: msgspec.json.encode(value).decode() if name in _JSON else value for name, value in values.items()}


def _to_push(row: Row[Any]) -> Push:
    values = {field.name: getattr(row, f"push_{field.name}") for field in fields(Push)}
    return Push(**values | {name: msgspec.json.decode(values[name], type=kind) for name, kind in _JSON.items()})
