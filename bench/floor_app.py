"""The floor of `bench.floor`: a bare ASGI application of the service's libraries.

    HOST=127.0.0.1 PORT=8081 FOLDER=<a converted text model> python -m bench.floor_app

`POST /vectorize` is msgspec, the tokenizer, one computing thread, and orjson: no queue, no batches,
no cache, no limits, no errors, no metrics. `POST /remembered` answers with the bytes of the last
computed vector: the floor of an answer from a cache.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openvino as ov
import orjson
import uvicorn
from starlette.types import Receive, Scope, Send
from tokenizers import Tokenizer

_JSON = [(b"content-type", b"application/json")]
# Padding and OpenVINO options of the service, so that both compute the same.
_PADDED_TO = 4
_PROPERTIES = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,
    "INFERENCE_PRECISION_HINT": "f32",
}


class Body(msgspec.Struct):
    """The body of a request."""

    texts: list[str]


class Floor:
    """The application.

    Args:
        folder: a converted text model, with `tokenizer.json` and `text.xml`.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_padding(pad_to_multiple_of=_PADDED_TO)
        compiled = ov.Core().compile_model(folder / "text.xml", "CPU", _PROPERTIES)
        self._network = compiled.create_infer_request()
        self._thread = ThreadPoolExecutor(1)
        self._decoder = msgspec.json.Decoder(Body)
        self._remembered = b"{}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        content = b""
        more = scope["method"] == "POST"
        while more:
            message = await receive()
            content += message["body"]
            more = message["more_body"]
        if scope["path"] == "/vectorize":
            self._remembered = await self._answer(content)
        head = [*_JSON, (b"content-length", b"%d" % len(self._remembered))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": self._remembered})

    async def _answer(self, content: bytes) -> bytes:
        (text,) = self._decoder.decode(content).texts
        encoding = self._tokenizer.encode(text)
        ids, mask = (np.array([row]) for row in (encoding.ids, encoding.attention_mask))
        loop = asyncio.get_running_loop()
        vector = await loop.run_in_executor(self._thread, self._compute, ids, mask)
        answer = {"textVectors": [vector], "imageVectors": []}
        return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)

    def _compute(self, *arrays: Any) -> Any:
        rows = self._network.infer(list(arrays), share_inputs=True, share_outputs=True)[0]
        return rows[0, 0].copy()  # [n, poolings, dimensions]: the mean over the tokens


if __name__ == "__main__":
    uvicorn.run(
        Floor(Path(os.environ["FOLDER"])),
        host=os.environ["HOST"],
        port=int(os.environ["PORT"]),
        lifespan="off",
        log_level="warning",
        access_log=False,
    )
