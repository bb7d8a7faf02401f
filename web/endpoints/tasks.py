"""What clients say a vector is for, and the same in the words of a `EncodeParams`."""

from __future__ import annotations

TASKS = {
    **dict.fromkeys(("query", "search_query", "retrieval.query"), "query"),
    **dict.fromkeys(("document", "search_document", "retrieval.passage"), "passage"),
}
