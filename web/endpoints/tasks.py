"""Translates task names of the different APIs to tasks of `EncodeParams`."""

from __future__ import annotations

TASKS = {
    **dict.fromkeys(("query", "search_query", "retrieval.query"), "query"),
    **dict.fromkeys(("document", "search_document", "retrieval.passage"), "passage"),
}
