"""The models of the service by name: MODELS_DIR holds one model, or a folder for each model."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from backends.load import modality_of
from backends.model import Modality
from backends.model_folders import find_models
from config import SETTINGS_FILE, Settings, settings_of
from errors import StartupError
from on_demand import MakeVectorizer, OnDemand
from vectorizer import Resources, Vectorizer

logger = logging.getLogger(__name__)


@dataclass
class Registry:
    """The models by name; a model that is alone in MODELS_DIR has the name "".

    Attributes:
        settings: the settings of each model.
        loaded: the models that are loaded now: all, if none is loaded on demand.
        on_demand: loads and unloads them; None if all are loaded at start.
        kinds: the kind of each named model, by its inputs: pairs, images (and texts), or texts.
        defaults: names of the models that answer requests without a name, by the first path of the
            endpoint.
    """

    settings: Mapping[str, Settings]
    loaded: dict[str, Vectorizer] = field(default_factory=dict)
    on_demand: OnDemand | None = None
    kinds: Mapping[str, Modality] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)


def settings_by_name(settings: Settings) -> dict[str, Settings]:
    """Return the settings of each model by its name; of the only model in MODELS_DIR by "".

    Raises:
        ModelFolderError: MODELS_DIR is a model and holds models as well, or a name is invalid.
        ConfigurationError: the settings of one of several models are invalid.
    """
    folders = find_models(settings.models_dir)
    if folders:
        return {name: settings_of(folder, settings) for name, folder in folders.items()}
    if (unused := settings.models_dir / SETTINGS_FILE).exists():
        logger.warning("%s is not read, as MODELS_DIR is the folder of one model", unused)
    return {"": settings}


@asynccontextmanager
async def load_models(
    settings: Settings,
    make_vectorizer: MakeVectorizer,
    choose_defaults: Callable[[Mapping[str, Modality]], Mapping[str, str]],
) -> AsyncIterator[Registry]:
    """Open all models for a `with` block, and close them after it.

    They are loaded one after the other, or on demand by requests.

    Args:
        settings: the settings of the service.
        make_vectorizer: function that loads a model by its settings.
        choose_defaults: function that returns the default model of each endpoint, from the kinds
            of named models. It is called first, as loading takes long. A `ConfigurationError` of it
            ends the start.

    Raises:
        StartupError: the operator must fix something; the message names the model.
    """
    by_name = settings_by_name(settings)
    kinds = kinds_by_name(by_name)
    registry = Registry(by_name, kinds=kinds, defaults=choose_defaults(kinds))
    async with AsyncExitStack() as held:
        if settings.models_on_demand and kinds:
            registry.on_demand = OnDemand(settings, registry.settings, make_vectorizer)
            registry.loaded = registry.on_demand.loaded
            await held.enter_async_context(aclosing(registry.on_demand))
        else:
            resources = Resources.of(settings)
            for name, own in registry.settings.items():
                with naming(name):
                    vectorizer = await make_vectorizer(own, resources)
                registry.loaded[name] = await held.enter_async_context(aclosing(vectorizer))
        yield registry


def kinds_by_name(by_name: Mapping[str, Settings]) -> dict[str, Modality]:
    """Return the kind of each named model, by its inputs: pairs, images (and texts), or texts.

    Raises:
        StartupError: a folder holds an incomplete model; the message names the model.
    """
    kinds = {}
    for name, settings in by_name.items():
        if name:
            with naming(name):
                kinds[name] = modality_of(settings)
    return kinds


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Name the model in an error that ends startup, if it has a name."""
    try:
        yield
    except StartupError as error:
        if not name:
            raise
        raise type(error)(f"Model {name}: {error}") from error
