"""A real HTTP server that speaks the OpenAI-compatible chat API, with ways to misbehave.

Its model writes words drawn from the request's seed; the model's name chooses how it behaves.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

WORDS = (
    *("amber", "brook", "cloud", "dune", "ember", "fern", "grove", "heron"),
    *("iris", "jade", "kite", "lark", "moss", "nest", "oak"),
)


class ChatServer:
    """The server's state: what it was asked, and whether it is well."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.well = True
        self.address = ""

    def create_app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def complete(request: Request) -> Response:
            body = await request.json()
            self.requests.append(body)
            self.keys.append(request.headers.get("authorization"))
            if not self.well:
                return PlainTextResponse("the GPU is on fire", 503)
            return self.answer(body)

        return app

    def answer(self, body: dict[str, Any]) -> Response:
        model = body["model"]
        if model == "unknown":
            return JSONResponse({"error": {"message": "no such model"}}, 404)
        if model == "garbage":
            return PlainTextResponse("<html>hello</html>")
        if model == "silent":
            return JSONResponse({"choices": [{"message": {"content": None}}]})
        if model == "busy":
            return JSONResponse({}, 429, headers={"Retry-After": "30"})
        source = random.Random(body["seed"])
        words = [source.choice(WORDS) for _ in range(8)]
        text = "always the same" if model == "parrot" else " ".join(words)
        return JSONResponse(
            {
                "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 8},
            }
        )


@contextmanager
def running_server() -> Iterator[ChatServer]:
    """The server, listening on a port of its own."""
    chat = ChatServer()
    config = uvicorn.Config(chat.create_app(), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    chat.address = f"http://127.0.0.1:{port}/v1"
    try:
        yield chat
    finally:
        server.should_exit = True
        thread.join(timeout=10)
