"""The durations of a request's stages, as differences of timestamps.

Requests and items record when they passed from one stage to the next, in seconds of
`time.perf_counter`; 0 means that they never did.
"""

from __future__ import annotations

import time
from typing import Literal, TypeAlias, get_args

# In the order in which a request passes them:
#   read        receive the body and parse it
#   queue       wait: for a thread, for the model, or for the same input of another request
#   decode      base64 and image file to pixels
#   preprocess  pixels to the size of the model
#   tokenize    text to token ids
#   encode      the forward pass of the batch that the item was in
#   serialize   vectors to JSON
Stage: TypeAlias = Literal[
    "read", "queue", "decode", "preprocess", "tokenize", "encode", "serialize"
]
STAGES: tuple[Stage, ...] = get_args(Stage)


class ItemTimes:
    """Timestamps of an item.

    Attributes:
        created_s: the item was created.
        decoded_s: duration of decoding its base64, in seconds.
        preprocess_began_s: its preprocessing began.
        opened_s: its image file was decoded; 0 for a text.
        preprocessed_s: its preprocessing ended.
        batch_began_s: the forward pass of its last chunk began.
        batch_ended_s: the forward pass of its last chunk ended.
        ended_s: it had its result or its error.
    """

    __slots__ = (
        "batch_began_s",
        "batch_ended_s",
        "created_s",
        "decoded_s",
        "ended_s",
        "opened_s",
        "preprocess_began_s",
        "preprocessed_s",
    )

    def __init__(self) -> None:
        self.created_s = time.perf_counter()
        self.decoded_s = self.preprocess_began_s = self.opened_s = self.preprocessed_s = 0.0
        self.batch_began_s = self.batch_ended_s = self.ended_s = 0.0

    def stages(self) -> dict[Stage, float]:
        """Return the durations of the item's stages in seconds, without waits."""
        stages: dict[Stage, float] = {}
        preprocess_began_s, is_image = self.preprocess_began_s, bool(self.opened_s)
        decode_s = self.decoded_s
        if is_image:
            decode_s += self.opened_s - preprocess_began_s
            preprocess_began_s = self.opened_s
        if decode_s:
            stages["decode"] = decode_s
        if self.preprocessed_s:
            stage: Stage = "preprocess" if is_image else "tokenize"
            stages[stage] = self.preprocessed_s - preprocess_began_s
        if self.batch_ended_s:
            stages["encode"] = self.batch_ended_s - self.batch_began_s
        return stages


class RequestTimes:
    """Timestamps of a request.

    Items are processed in parallel, so only the stages of the slowest item count: then the stages
    sum up to the time that the client waited.

    Attributes:
        arrived_s: its head was read.
        read_began_s: its body began to be read.
        read_ended_s: its body was parsed.
        embed_began_s: its inputs began to be embedded; 0 if the request had no inputs.
        embed_ended_s: its vectors were computed.
        serialize_s: duration of serializing its answer, in seconds.
        items: timestamps of its items.
    """

    __slots__ = (
        "arrived_s",
        "embed_began_s",
        "embed_ended_s",
        "items",
        "read_began_s",
        "read_ended_s",
        "serialize_s",
    )

    def __init__(self) -> None:
        self.arrived_s = time.perf_counter()
        self.read_began_s = self.read_ended_s = self.embed_began_s = 0.0
        self.embed_ended_s = self.serialize_s = 0.0
        self.items: list[ItemTimes] = []

    @property
    def slowest(self) -> ItemTimes | None:
        """The item that ended last; None if there are no items."""
        ends_s = [one.ended_s or one.created_s + one.decoded_s for one in self.items]
        return self.items[ends_s.index(max(ends_s))] if ends_s else None

    def stages(self, ended_s: float) -> dict[Stage, float]:
        """Return the durations of the request's stages in seconds, in order.

        Args:
            ended_s: timestamp of the request's end; the request may have failed in any stage.
        """
        stages: dict[Stage, float] = {}
        if self.read_began_s:
            stages["read"] = (self.read_ended_s or ended_s) - self.read_began_s
        if self.embed_began_s:
            slowest = self.slowest
            worked = slowest.stages() if slowest else {}
            embed_s = (self.embed_ended_s or ended_s) - self.embed_began_s
            stages["queue"] = max(0.0, embed_s - sum(worked.values()))
            stages |= worked
        if self.serialize_s:
            stages["serialize"] = self.serialize_s
        return stages
