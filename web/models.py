"""The models by name, and the model that answers a request.

A request names its model by its path `/m/<name>/...`, or by `model` in its body. Without a name,
the default model of the endpoint answers; defaults are fixed at start. A model that is alone in
MODELS_DIR has no name, and answers all requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.model import Modality, ModelInfo
from config import Settings
from errors import ConfigurationError, InvalidInputError, NotLoadedError, UnknownModelError
from on_demand_model import OnDemandModel
from vectorizer import Vectorizer
from web.endpoints.base import Endpoint
from web.endpoints.json_body import model_in

_SHOWN_CHARS = 64  # maximum length of an unknown name in an error


_KINDS: tuple[Modality, ...] = ("pair", "image", "text")
_MODALITIES: Mapping[Modality, tuple[Modality, ...]] = {
    "pair": ("pair",),
    "image": ("text", "image"),
    "text": ("text",),
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model, with the endpoints that serve it.

    Attributes:
        vectorizer: the model at work.
        endpoints: the endpoints, by the first path of each.
    """

    vectorizer: Vectorizer
    endpoints: Mapping[str, Endpoint[Any]]


@dataclass(slots=True, eq=False)
class ServedModel:
    """A model that the service answers for, loaded or not.

    Attributes:
        name: its name; empty if it is alone in MODELS_DIR.
        settings: its settings.
        kind: the modality that decides which routes it serves: pairs, images (and texts), or texts.
        listed_at: time at which the service found the model, in seconds since 1970.
        on_demand: loads it; None if it was loaded at start.
        loaded: the loaded model; None while it is not loaded.
        info: facts about the model; None before its first load.
    """

    name: str
    settings: Settings
    kind: Modality
    listed_at: int
    on_demand: OnDemandModel | None = None
    loaded: LoadedModel | None = None
    info: ModelInfo | None = None

    async def load(self) -> LoadedModel:
        """Return the loaded model; load it first if it is not.

        Raises:
            NotLoadedError: it cannot be loaded now.
        """
        if self.on_demand:
            await self.on_demand.load()
        if self.loaded is None:  # for the type checker: a load sets it
            raise NotLoadedError(f"model {self.name} is not loaded", retry_after_s=1)
        return self.loaded

    def check_answers(self, endpoint: type[Endpoint[Any]]) -> None:
        """Check that a model of this kind answers an endpoint, before the model is loaded.

        Raises:
            InvalidInputError: the model does not answer the endpoint.
        """
        if not endpoint.serves(self.kind):
            reads = " and ".join(f"{modality}s" for modality in self.modalities)
            raise InvalidInputError(
                f"model {self.name} reads {reads}, and does not answer POST {endpoint.paths[0]}",
                "modality",
            )

    @property
    def id(self) -> str:
        """The model's name for clients; a model without a name has the name of its weights."""
        return self.name or (self.info.name if self.info else "")

    @property
    def modalities(self) -> Sequence[Modality]:
        """The modalities of its inputs; while it is not loaded, they follow from its kind."""
        return self.loaded.vectorizer.modalities if self.loaded else _MODALITIES[self.kind]

    @property
    def dead(self) -> str | None:
        """Return the reason if only a restart can help, else None."""
        if self.on_demand:
            return self.on_demand.dead
        return self.loaded.vectorizer.health.dead if self.loaded else None

    @property
    def unready(self) -> str | None:
        """Return the reason if it cannot answer, else None; a request may load it first."""
        if self.loaded:
            return self.loaded.vectorizer.health.unready
        return self.on_demand.unready if self.on_demand else None


def kind_of(modalities: Collection[Modality]) -> Modality:
    """Return the kind of a model by its modalities."""
    return next(kind for kind in _KINDS if kind in modalities)


class Models:
    """The models by name; chooses the model of a request.

    Args:
        models: all models.
        endpoints: the endpoints.
        defaults: names of the models that answer requests without a name, by the first path of the
            endpoint.
        aliases: pairs of an alias and the name of a model; models without names have none.

    Attributes:
        by_name: the models by name; "" for a model without a name.
        have_names: whether the models have names, and answer below `/m/<name>/`.
        ids: the models by the values of `model` in a body: names and aliases.
        only: the only model; None if there are several.
        first: the default model of the first endpoint that has a default. Routes that describe a
            single model describe it.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        endpoints: Sequence[type[Endpoint[Any]]],
        defaults: Mapping[str, str],
        aliases: Sequence[tuple[str, str]],
    ) -> None:
        self.by_name = {model.name: model for model in models}
        self.have_names = "" not in self.by_name
        self.only = models[0] if len(models) == 1 else None
        self._defaults = {path: self.by_name[name] for path, name in defaults.items()}
        self.ids = self.by_name | {
            alias: self.by_name[name] for alias, name in aliases if self.have_names
        }
        self._endpoints = endpoints
        self.first = next(iter(self._defaults.values()), models[0])

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.by_name.values())

    def endpoints(self) -> list[type[Endpoint[Any]]]:
        """Return the endpoints that a model answers."""
        return [one for one in self._endpoints if any(one.serves(model.kind) for model in self)]

    def default(self, endpoint: str) -> ServedModel:
        """Return the model for requests without a name, by the first path of an endpoint."""
        return self._defaults.get(endpoint, self.first)

    def unknown(self, name: str) -> UnknownModelError:
        """Return the error of a request with an unknown model name."""
        known = ", ".join(self.by_name)
        return UnknownModelError(
            f"no model {name[:_SHOWN_CHARS]!r} here; there are: {known}", "unknown_model"
        )

    def of_body(self, endpoint: str, body: bytes | bytearray) -> ServedModel:
        """Return the model that a body names, or the default of an endpoint.

        Args:
            endpoint: the first path of the endpoint.
            body: the body of a request whose path names no model.

        Raises:
            UnknownModelError: the body names a model that is not there.
            InvalidInputError: `model` in the body is no string.
        """
        name = model_in(body)
        if not name:
            return self.default(endpoint)
        model = self.ids.get(name) or self.ids.get(name.removesuffix(":latest"))  # Ollama's tag
        if model is None:
            raise self.unknown(name)
        return model


def choose_defaults(
    kinds: Mapping[str, Modality], endpoints: Sequence[type[Endpoint[Any]]], settings: Settings
) -> dict[str, str]:
    """Return the default model's name for each endpoint, by the endpoint's first path.

    Endpoints that no model fits are left out.

    Args:
        kinds: the kind of each named model.
        endpoints: the endpoints.
        settings: the settings, for DEFAULT_MODEL and MODEL_ALIASES.

    Raises:
        ConfigurationError: DEFAULT_MODEL or MODEL_ALIASES names no model; an alias is a model's
            name, or set twice; or several models fit an endpoint, and DEFAULT_MODEL names none.
    """
    if kinds:  # a model without a name leaves both settings unused
        _check_names("DEFAULT_MODEL", settings.default_model, kinds)
        _check_names("MODEL_ALIASES", [name for _, name in settings.model_aliases], kinds)
        if taken := sorted({alias for alias, _ in settings.model_aliases} & kinds.keys()):
            raise ConfigurationError(f"MODEL_ALIASES: a model has this name already: {taken[0]}")
        counts = Counter(alias for alias, _ in settings.model_aliases)
        if twice := [alias for alias, count in counts.items() if count > 1]:
            raise ConfigurationError(f"MODEL_ALIASES: set twice: {twice[0]}")
    defaults = {}
    for endpoint in endpoints:
        groups = ([name for name, kind in kinds.items() if kind in fit] for fit in endpoint.kinds)
        fitting = next(filter(None, groups), [])
        preferred = [name for name in settings.default_model if name in fitting]
        if len(fitting) > 1 and not preferred:
            raise ConfigurationError(
                f"DEFAULT_MODEL: several models answer POST {endpoint.paths[0]}: name the model "
                f"for requests without a model's name: {' or '.join(fitting)}"
            )
        if fitting:
            defaults[endpoint.paths[0]] = (preferred or fitting)[0]
    return defaults


def _check_names(variable: str, names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            there = ", ".join(sorted(known))
            raise ConfigurationError(f"{variable}: there is no model {name!r}; there are: {there}")
