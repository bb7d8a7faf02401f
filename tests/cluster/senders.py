"""Runs in a pod beside the balancer: sends what Weaviate sends, until its input ends.

    python -m tests.cluster.senders balancer:8080 objects         checks every vector
    python -m tests.cluster.senders balancer:8080 bodies 16 90    16 bodies of 90 MB at once
    python -m tests.cluster.senders weaviate:80 pictures          by way of Weaviate

It prints a line when it begins, and the outcome as JSON when it ends. Of pictures it
prints what was done.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException

from bench.client import Target
from bench.weaviate import Weaviate
from tests import crowd
from tests.balancer.importer import SENDERS, WEAVIATE_S, Import, objects
from tests.weaviate_imports import import_pictures

_CHUNK = b"a" * (1 << 16)


def send_objects(target: Target) -> dict[str, object]:
    """Import until the input ends; return what came of it."""
    known = asyncio.run(crowd.learn(target, objects(16 * SENDERS)))
    imports = Import.of(target, known)
    print("sending", flush=True)
    imported = imports.during(sys.stdin.read)
    return {
        "answered": imported.answered,
        "lost": dict(imported.lost),
        "resent": imported.resent,
        "slowest_s": round(imported.slowest_s, 1),
    }


async def send_bodies(target: Target, count: int, megabytes: int) -> dict[str, object]:
    """Send large bodies at once; return how many got which status, and how many none."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(count))
    print("sending", flush=True)
    started_s = time.monotonic()
    asks = [asyncio.to_thread(_send_body, target, megabytes) for _ in range(count)]
    statuses = Counter(await asyncio.gather(*asks))
    return {"statuses": statuses, "slowest_s": round(time.monotonic() - started_s, 1)}


def _send_body(target: Target, megabytes: int) -> str:
    """Send one body, which a replica reads whole and refuses; return what it says."""

    def body() -> Iterator[bytes]:
        yield b'{"ignored": "'
        for _ in range(megabytes * 1_000_000 // len(_CHUNK)):
            yield _CHUNK
        yield b'"}'

    connection = HTTPConnection(target.host, target.port, timeout=WEAVIATE_S)
    length = sum(map(len, body()))
    try:
        connection.request("POST", "/vectorize", body(), {"Content-Length": str(length)})
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace")
        return str(answer.status) if answer.status == 200 else f"{answer.status} {said[:200]}"
    except (OSError, HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def reached(weaviate: Weaviate) -> Weaviate:
    """Wait until the node's proxy knows of Weaviate: a pod is ready a moment earlier."""
    ends_s = time.monotonic() + WEAVIATE_S
    while True:
        try:
            weaviate.ask("GET", "/v1/.well-known/ready")
        except OSError:
            weaviate.close()
            if time.monotonic() > ends_s:
                raise
            time.sleep(1)
        else:
            return weaviate


if __name__ == "__main__":
    target = Target.from_url(f"http://{sys.argv[1]}")
    match sys.argv[2:]:
        case ["objects"]:
            outcome = send_objects(target)
        case ["bodies", count, megabytes]:
            outcome = asyncio.run(send_bodies(target, int(count), int(megabytes)))
        case ["pictures"]:
            print(import_pictures(reached(Weaviate(f"http://{sys.argv[1]}"))))
            sys.exit()
        case _:
            sys.exit(__doc__)
    print(json.dumps(outcome), flush=True)
