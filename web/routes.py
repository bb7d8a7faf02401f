"""The routes beside the endpoints: probes, facts about the model, metrics, the debug page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from config import VERSION
from errors import UnhealthyError
from meta import meta, meta_of_unloaded
from web.docs import load_docs
from web.endpoints.ollama import OllamaErrors, OllamaTags, OllamaVersion, tag
from web.endpoints.openai_api import ModelList, ModelObject, OpenAIErrors, model_object
from web.endpoints.text_embeddings import EmbedInfo, about
from web.models import ServedModel
from web.openapi import error_responses
from web.page import html_response
from web.scope import MODEL_PREFIX
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
    app.get("/openapi.json", include_in_schema=False)(_openapi)
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


# A probe whose path names no model fails if any model fails, as requests for that model cannot be
# answered. On demand `ready` fails only if all models fail.


async def _live(request: Request) -> Response:
    return _probe((model, model.dead) for model in _asked(request).values())


async def _ready(request: Request) -> Response:
    asked = _asked(request).values()
    for model in asked:
        if model.loaded:
            model.loaded.vectorizer.try_again_if_failing()
    if get_service(request.scope).draining:
        raise UnhealthyError("shutting down")
    # On demand a load may fail for ever, as of a broken folder: the other models go on.
    if any(model.on_demand and not model.unready for model in asked):
        return Response(status_code=204)
    return _probe((model, model.unready) for model in asked)


def _probe(faults: Iterable[tuple[ServedModel, str | None]]) -> Response:
    for model, fault in faults:
        if fault:
            raise UnhealthyError(f"{model.name}: {fault}" if model.name else fault)
    return Response(status_code=204)


def _asked(request: Request) -> Mapping[str, ServedModel]:
    """Return the model that the path names, else all models; by names and aliases."""
    models = get_service(request.scope).models
    model: ServedModel | None = request.scope["state"]["model"]
    return models.ids if model is None else {model.id: model}


async def _meta(request: Request) -> dict[str, object]:
    models = get_service(request.scope).models
    model: ServedModel = request.scope["state"]["model"] or models.first
    named = [
        {"name": one.name, "modalities": one.modalities, "loaded": one.loaded is not None}
        for one in models
    ]
    listed = named if models.have_names else ()
    if not model.loaded:
        return meta_of_unloaded(model.name, model.info, model.modalities, listed)
    one = model.loaded.vectorizer
    return meta(one.info, one.modalities, one.cache_stats, one.shared, listed)


async def _models(request: Request) -> ModelList:
    asked = _asked(request).items()
    return {"object": "list", "data": [model_object(name, one.listed_at) for name, one in asked]}


async def _model(request: Request) -> ModelObject:
    asked, name = _asked(request), request.path_params["model"]
    if name not in asked:
        is_or_are = "is" if len(asked) == 1 else "are"
        raise HTTPException(404, f"no such model; there {is_or_are}: {', '.join(asked)}")
    return model_object(name, asked[name].listed_at)


async def _tags(request: Request) -> OllamaTags:
    asked = _asked(request).items()
    return {"models": [tag(name, one.info, one.listed_at) for name, one in asked]}


async def _version() -> OllamaVersion:
    return {"version": VERSION}


async def _info(request: Request) -> EmbedInfo:
    models = get_service(request.scope).models
    model: ServedModel = request.scope["state"]["model"] or models.default("/embed")
    return about(model.settings, model.id, model.info, is_reranker=model.kind == "pair")


async def _no_such_vectors() -> Response:
    raise HTTPException(404, "this service gives one vector for each text, by POST /embed")


async def _metrics(request: Request) -> Response:
    accept = request.headers.get("accept", "")
    content, content_type = get_service(request.scope).metrics.exposition(accept)
    return Response(content, headers={"Content-Type": content_type})


async def _docs() -> Response:
    return html_response(*load_docs())


async def _openapi(request: Request) -> JSONResponse:
    """Describe the routes of the model that the path names, or of all models, with their paths."""
    models = get_service(request.scope).models
    model: ServedModel | None = request.scope["state"]["model"]
    root = request.scope.get("root_path", "")
    described = request.app.openapi()
    if model is None:
        prefixes = [root or "/", *(f"{root}{MODEL_PREFIX}{one.name}" for one in models)]
        described = {**described, "servers": [{"url": prefix} for prefix in prefixes]}
    elif root:
        described = {**described, "servers": [{"url": root}]}
    return JSONResponse(described)


async def _root(request: Request) -> Response:
    page = get_service(request.scope).page
    if page and "text/html" in request.headers.get("accept", ""):
        return page
    app: FastAPI = request.app
    routes = {
        f"{method.upper()} {path}": operation["summary"]
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    }
    routes[f"GET {DOCS}"] = "The description of the interface"
    content = {"name": app.title, "version": app.version, "routes": routes}
    return JSONResponse(content, headers={"Vary": "Accept"})
