"""The routes beside the endpoints: probes, facts about the model, metrics, the debug page."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from config import VERSION
from errors import UnhealthyError
from meta import meta
from web.docs import docs_response
from web.endpoints.ollama import OllamaErrors, OllamaTags, OllamaVersion, tags
from web.endpoints.openai_api import ModelList, ModelObject, OpenAIErrors, model_object
from web.endpoints.text_embeddings import EmbedInfo, about
from web.openapi import error_responses
from web.service import get_service

DOCS = "/docs"


def add_routes(app: FastAPI) -> None:
    """Add the probes, facts about the model, metrics and pages to an application."""
    probe: dict[str, Any] = {
        "status_code": 204,
        "response_class": Response,
        "responses": error_responses([503]),
        "tags": ["health"],
    }
    refused = error_responses([401])
    app.get("/.well-known/live", summary="Is the process alive?", **probe)(_live)
    app.get("/.well-known/ready", summary="Can it take requests?", **probe)(_ready)
    app.get("/health", summary="Can it take requests? As `ready`", **probe)(_ready)
    app.get("/meta", summary="What model is this?", tags=["model"], responses=refused)(_meta)
    app.get(
        "/metrics",
        summary="What is it doing? For Prometheus",
        tags=["health"],
        response_class=Response,
        responses=refused,
    )(_metrics)
    app.get(DOCS, include_in_schema=False)(_docs)
    app.get(
        "/",
        summary="A page to try the model on, for browsers",
        tags=["model"],
        responses=refused,
    )(_root)
    _add_models(app)
    _add_ollama(app)
    _add_text_embeddings(app)


def _add_models(app: FastAPI) -> None:
    app.get(
        "/v1/models",
        summary="What models are there? As OpenAI's API says it",
        tags=["model"],
        responses=error_responses([401], OpenAIErrors()),
    )(_models)
    app.get(
        "/v1/models/{model:path}",
        summary="Is there this model?",
        tags=["model"],
        responses=error_responses([401, 404], OpenAIErrors()),
        openapi_extra={"parameters": [_MODEL]},
    )(_model)


def _add_ollama(app: FastAPI) -> None:
    refused = error_responses([401], OllamaErrors())
    app.get(
        "/api/tags",
        summary="What models are there? As Ollama says it",
        tags=["model"],
        responses=refused,
    )(_tags)
    app.get(
        "/api/version",
        summary="Which version is it? As Ollama says it",
        tags=["model"],
        responses=refused,
    )(_version)


def _add_text_embeddings(app: FastAPI) -> None:
    app.get(
        "/info",
        summary="What model is this? As text-embeddings-inference says it",
        tags=["model"],
        responses=error_responses([401]),
    )(_info)
    for path in ("/embed_all", "/embed_sparse"):
        app.post(path, include_in_schema=False)(_no_such_vectors)


# Without parameters of its own, FastAPI describes no 422.
_MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}


async def _live(request: Request) -> Response:
    return _probe(get_service(request.scope).vectorizer.health.dead)


async def _ready(request: Request) -> Response:
    vectorizer = get_service(request.scope).vectorizer
    vectorizer.try_again_if_failing()
    return _probe(vectorizer.health.unready)


def _probe(fault: str | None) -> Response:
    if fault:
        raise UnhealthyError(fault)
    return Response(status_code=204)


async def _meta(request: Request) -> dict[str, object]:
    vectorizer = get_service(request.scope).vectorizer
    return meta(vectorizer.info, vectorizer.modalities, vectorizer.cache_stats, vectorizer.shared)


async def _models(request: Request) -> ModelList:
    return {"object": "list", "data": [_loaded_model(request)]}


async def _model(request: Request) -> ModelObject:
    model = _loaded_model(request)
    if request.path_params["model"] != model["id"]:
        raise HTTPException(404, f"no such model; {model['id']} is loaded")
    return model


def _loaded_model(request: Request) -> ModelObject:
    service = get_service(request.scope)
    return model_object(service.vectorizer.info, service.started_at)


async def _tags(request: Request) -> OllamaTags:
    service = get_service(request.scope)
    return tags(service.vectorizer.info, service.started_at)


async def _version() -> OllamaVersion:
    return {"version": VERSION}


async def _info(request: Request) -> EmbedInfo:
    service = get_service(request.scope)
    return about(service.settings, service.vectorizer.info)


async def _no_such_vectors() -> Response:
    raise HTTPException(404, "this service gives one vector for each text, by POST /embed")


async def _metrics(request: Request) -> Response:
    accept = request.headers.get("accept", "")
    content, content_type = get_service(request.scope).metrics.exposition(accept)
    return Response(content, headers={"Content-Type": content_type})


async def _docs() -> Response:
    return docs_response()


async def _root(request: Request) -> Response:
    page = get_service(request.scope).page
    if page and "text/html" in request.headers.get("accept", ""):
        return page
    app: FastAPI = request.app
    content = {"name": app.title, "version": app.version, "routes": _routes(app)}
    return JSONResponse(content, headers={"Vary": "Accept"})


def _routes(app: FastAPI) -> dict[str, str]:
    """Return all routes with their summaries, for the list at `/`."""
    described = {
        f"{method.upper()} {path}": operation["summary"]
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    }
    return described | {f"GET {DOCS}": "The description of the interface"}
