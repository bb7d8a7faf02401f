"""The catalogue of pre-built models; `catalogue.json` is the only list of these models.

    python3 -m fetch.catalogue                  the tags, one on each line
    python3 -m fetch.catalogue --matrix         a GitHub matrix, {"include": [{"tag": ...}, ...]}
    python3 -m fetch.catalogue --build-args TAG the options of `docker build`
    python3 -m fetch.catalogue --table          the two tables of docs/models.md

This module needs only Python's standard library and this project.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from errors import DownloadError

FILE = Path(__file__).with_name("catalogue.json")


@dataclass(frozen=True)
class Model:
    """An entry of the catalogue: a pre-built model.

    Attributes:
        tag: the tag of the container image, and the value of `MODEL` for `make run`.
        family: the model family, as `GET /meta` names it.
        languages: the languages of the texts that the model reads.
        variables: the build variables that select the model, and their values.
        dimensions: length of the vectors; 0 for a reranker, which computes scores.
        licence: licence of the weights; empty if unknown.
        gated: whether the hub sends the weights only to users who have accepted their terms.
        tried: the weights of this model that the tests use, in words.
    """

    tag: str
    family: str
    languages: str
    variables: dict[str, str]
    dimensions: int = 0
    licence: str = ""
    gated: bool = False
    tried: str = "a small random model"

    @property
    def input(self) -> str:
        """The kinds of inputs that the model reads, for the tables."""
        if not self.dimensions:
            return "pairs of texts"
        return "texts" if "MODEL_NAME" in self.variables else "texts, images"

    @property
    def runtime(self) -> str:
        """How the model is served on a CPU, for the tables."""
        if self.family == "model2vec":
            return "numpy"
        if "TRUST_REMOTE_CODE" in self.variables:
            return "converted if its code can be, else torch"
        return "converted"

    @property
    def terms(self) -> str:
        """The licence, and whether the model is gated, for the tables."""
        return f"{self.licence or '?'}{', gated' if self.gated else ''}"

    @property
    def build_args(self) -> str:
        """The build variables as options of `docker build`."""
        return " ".join(f"--build-arg {name}={value}" for name, value in self.variables.items())


def load(file: Path = FILE) -> dict[str, Model]:
    """Read the catalogue: return tag -> model, in the order of the file."""
    entries = json.loads(file.read_text(encoding="utf-8"))
    return {tag: Model(tag=tag, **entry) for tag, entry in entries.items()}


def find(tag: str) -> Model:
    """Return the model of a tag, in upper or lower case.

    Raises:
        DownloadError: the tag is unknown.
    """
    models = load()
    found = [model for name, model in models.items() if name.lower() == tag.lower()]
    if not found:
        lower = {name.lower(): name for name in models}
        # Users may know only the end of a tag, such as clip-ViT-B-32.
        close = [lower[name] for name in get_close_matches(tag.lower(), lower, n=1, cutoff=0.4)]
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise DownloadError(f"there is no model {tag}{hint}; the models are: {', '.join(models)}")
    return found[0]


def matrix() -> dict[str, list[dict[str, str]]]:
    """Return a GitHub matrix: each model's tag, build arguments and build variables.

    Gated models are left out: only users who have accepted the terms can build their images.
    """
    return {
        "include": [
            {"tag": model.tag, "build_args": model.build_args, **model.variables}
            for model in load().values()
            if not model.gated
        ]
    }


def table() -> str:
    """Return the table of embedders in docs/models.md, in Markdown."""
    return _table([model for model in load().values() if model.dimensions], ["dimensions"])


def rerankers() -> str:
    """Return the table of rerankers for docs/models.md, in Markdown."""
    return _table([model for model in load().values() if not model.dimensions], [])


def _table(models: Sequence[Model], numbers: Sequence[str]) -> str:
    """Return a Markdown table of models; `numbers` are columns with attributes of these names."""
    titles = ["tag", "licence", "family", "input", *numbers]
    titles += ["languages", "served", "tried with", "variables"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for model in models:
        variables = "<br>".join(f"`{name}={value}`" for name, value in model.variables.items())
        first = [f"`{model.tag}`", model.terms, model.family, model.input]
        own = [str(getattr(model, name)) for name in numbers]
        cells = [*first, *own, model.languages, model.runtime, model.tried, variables]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tags, the matrix, the build arguments or the tables, as the arguments select."""
    parser = argparse.ArgumentParser(description="The pre-built models.")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--matrix", action="store_true", help="a GitHub matrix, in JSON")
    form.add_argument("--build-args", metavar="TAG", help="the options of docker build")
    form.add_argument("--table", action="store_true", help="the tables of docs/models.md")
    options = parser.parse_args(arguments)
    try:
        print(_text_for(options))
    except DownloadError as error:
        sys.exit(f"Fatal: {error}")


def _text_for(options: argparse.Namespace) -> str:
    if options.matrix:
        return json.dumps(matrix())
    if options.build_args:
        return find(options.build_args).build_args
    if options.table:
        return f"{table()}\n\n{rerankers()}"
    return "\n".join(load())


if __name__ == "__main__":
    main()
