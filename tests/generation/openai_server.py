"""A real HTTP server that speaks the OpenAI-compatible chat API, with ways to misbehave.

Its model writes words drawn from the request's seed; the model's name chooses how it behaves.
"""

import math
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
            if body["model"] == "tell-tale":
                return JSONResponse({"error": f"the key {self.keys[-1]} is not known"}, 401)
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
        if model.startswith("moved "):
            to = model.removeprefix("moved ") + "/chat/completions"
            return Response(status_code=307, headers={"location": to})
        if model.startswith("judge"):
            return self.judge(body)
        source = random.Random(body["seed"])
        words = [source.choice(WORDS) for _ in range(8)]
        text = "always the same" if model == "parrot" else " ".join(words)
        return JSONResponse(
            {
                "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 8},
            }
        )

    def judge(self, body: dict[str, Any]) -> Response:
        """A model that likes the word `good`, or whatever stands first, and can rewrite.

        `judge` tells log-probabilities, `judge-word` only its word, `judge-first` always says A,
        `judge-mute` never says a letter.
        """
        model, asked = body["model"], body["messages"][-1]["content"]
        if "Response B:" not in asked:  # a critique or a revision
            said = "it could be better" if "critique" in asked else "a good good good answer"
            return JSONResponse({"choices": [{"message": {"content": said}}]})
        first, second = (part.count("good") for part in asked.split("Response B:"))
        chance = 0.9 if model == "judge-first" else 1 / (1 + math.exp(second - first))
        word = {"judge-mute": "well", "judge-word": "(A)" if chance >= 0.5 else "B."}.get(
            model, "A"
        )
        choice: dict[str, Any] = {"message": {"content": word}, "finish_reason": "stop"}
        if model in ("judge", "judge-first") and body.get("logprobs"):
            told = [("A", chance), (" B", 1 - chance), ("The", 0.01)]
            top = [{"token": token, "logprob": math.log(value)} for token, value in told]
            choice["logprobs"] = {"content": [{"token": "A", "top_logprobs": top}]}
        return JSONResponse({"choices": [choice]})


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
