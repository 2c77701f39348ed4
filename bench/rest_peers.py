"""What the REST bridge is compared with: `python -m bench.rest_peers echo | by_hand DATABASE`.

`echo` is Starlette on uvicorn and uvloop, and answers with the JSON that it was sent. `by_hand` is what one would write
without Signalbox: FastAPI, SQLAlchemy and aiosqlite, a pydantic model, one commit a request with `synchronous=FULL`.
Both print their address in one line on stdout.
"""

from __future__ import annotations

import socket
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlalchemy import JSON, DateTime, String, event, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench.data import AUTOSEND_KEY, CONTACTS, NAMES, REST_PATH, email

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request


class Properties(BaseModel):
    """The properties of an event; pydantic coerces."""

    order_total: float | None = None
    currency: str | None = None
    is_first_purchase: bool | None = None


class Sent(BaseModel):
    """The body of a send."""

    eventName: str  # noqa: N815 - the field's name on the wire
    email: str
    eventProperties: Properties  # noqa: N815


class Base(DeclarativeBase):
    """The tables."""


class Contact(Base):
    """Whom an event is about."""

    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    email: Mapped[str] = mapped_column(String, unique=True)


class Recorded(Base):
    """An event."""

    __tablename__ = "event"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    name: Mapped[str] = mapped_column(String, index=True)
    contact_id: Mapped[str] = mapped_column(String, index=True)
    properties: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime)


def echo() -> Starlette:
    """Answer with what was sent."""

    async def send(request: Request) -> JSONResponse:
        return JSONResponse(await request.json(), 201)

    return Starlette(routes=[Route(REST_PATH, send, methods=["POST"])])


def by_hand(database: str) -> FastAPI:
    """Record events, one commit each."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{database}")
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    @event.listens_for(engine.sync_engine, "connect")
    def _durable(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with sessions.begin() as session:
            session.add_all(Contact(id=str(uuid4()), email=email(number)) for number in range(CONTACTS))
        yield
        await engine.dispose()

    async def session() -> AsyncIterator[AsyncSession]:
        async with sessions() as opened:
            yield opened

    app = FastAPI(lifespan=lifespan)

    @app.post(REST_PATH, status_code=201)
    async def send(
        sent: Sent,
        opened: AsyncSession = Depends(session),  # noqa: B008 - so FastAPI has it
        authorization: str = Header(),
    ) -> dict[str, Any]:
        if authorization != f"Bearer {AUTOSEND_KEY}":
            raise HTTPException(401)
        contact = await opened.scalar(select(Contact).where(Contact.email == sent.email))
        if contact is None or sent.eventName not in NAMES:
            raise HTTPException(404)
        recorded = Recorded(
            id=str(uuid4()),
            name=sent.eventName,
            contact_id=contact.id,
            properties=sent.eventProperties.model_dump(exclude_none=True),
            created_at=datetime.now(UTC),
        )
        opened.add(recorded)
        await opened.commit()
        data = {"id": recorded.id, "eventName": recorded.name, "properties": recorded.properties}
        return {"success": True, "data": data}

    return app


def main() -> None:
    """Serve one of the two until SIGTERM."""
    app = echo() if sys.argv[1] == "echo" else by_hand(sys.argv[2])
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
        print(f"{sys.argv[1]} ready http=127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
