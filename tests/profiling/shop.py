"""The app that the servers of these tests serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

from fastapi import Depends, FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import StreamingResponse

from fastobs import instrument
from tests.profiling.rig import TOKEN, burn
from tests.profiling.test_viewer import EVIL, renamed

app = FastAPI(debug="SHOP_DEBUG" in os.environ)


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


app.add_middleware(Passing)


def in_dependency() -> None:
    burn()


def in_endpoint() -> None:
    burn()


def dependency() -> None:
    in_dependency()


@app.get("/plain/{item_id}")
def plain(item_id: str, _: None = Depends(dependency)) -> str:
    in_endpoint()
    return item_id


@app.get("/async")
async def asynchronous() -> str:
    await query()
    return "done"


async def query() -> None:
    await asyncio.sleep(0.05)


@app.get("/stream")
def stream() -> StreamingResponse:
    return StreamingResponse(chunks())


def chunks() -> Iterator[bytes]:
    yield b"first "
    in_endpoint()
    yield b"last"


@app.get("/astream")
async def asynchronous_stream() -> StreamingResponse:
    return StreamingResponse(asynchronous_chunks())


async def asynchronous_chunks() -> AsyncIterator[bytes]:
    yield b"first "
    await query()
    yield b"last"


@app.get("/broken")
async def broken() -> None:
    burn()
    raise LookupError


@app.get("/evil")
async def evil() -> None:
    renamed(burn, EVIL)()


instrument(
    app,
    profiles={
        "token": None if "SHOP_DEBUG" in os.environ else TOKEN,
        "directory": os.environ["SHOP_PROFILES"],
        "per_minute": 1000,
    },
    pools=None,
    caches=None,
    limits=None,
    runtime=None,
)
