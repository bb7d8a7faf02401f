"""Checks every import against the table of folders in DESIGN.md."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ("web", "inference", "backends", "fetch")
# What each folder, or module by itself, may import of this project, beside itself. Nothing may
# import what stands above it in this table.
MAY_IMPORT: dict[str, set[str]] = {
    "compare": {"smoke_test"},
    "smoke_test": set(),
    "healthcheck": set(),
    "app": {"cli", "web", "web.endpoints", "registry", "on_demand", "vectorizer", "config"}
    | {"machine", "errors"},
    "cli": {
        "web",
        "web.endpoints",
        "registry",
        "vectorizer",
        "inference.store",
        "backends",
        "config",
        "errors",
    },
    "download": {"fetch", "backends.load", "backends.conversion", "backends", "config", "errors"},
    "web": {"web.endpoints", "meta", "registry", "on_demand", "on_demand_model", "vectorizer"}
    | {"inference.store", "inference", "backends", "config", "errors"},
    "web.endpoints": {"inference", "backends", "config", "errors"},
    "meta": {"inference.store", "inference", "backends", "config"},
    "registry": {"on_demand", "vectorizer", "backends.load", "backends", "config", "errors"},
    "on_demand": {"on_demand_model", "vectorizer", "inference", "backends.load", "backends"}
    | {"config", "machine", "errors"},
    "on_demand_model": {"inference", "config", "errors"},
    "vectorizer": {"inference.store", "inference", "inference.images", "backends.load", "backends"}
    | {"config", "machine", "errors"},
    "inference.images": {"inference", "backends", "errors"},
    "inference.store": {"inference", "backends", "errors"},
    "inference": {"backends", "errors"},
    "fetch": {"backends.replicas", "backends.conversion", "backends.families", "backends"}
    | {"config", "errors"},
    "backends.load": {"backends.replicas", "backends.conversion", "backends"}
    | {"config", "machine", "errors"},
    "backends.replicas": {"backends.conversion", "backends.families", "backends", "errors"}
    | {f"backends.runtimes.{runtime}" for runtime in ("openvino", "lookup", "torch")},
    # The jobs are processes of their own: they alone need the libraries of both runtimes.
    "backends.conversion.job": {"backends.conversion", "backends.runtimes.openvino"}
    | {"backends.families", "backends.runtimes.torch", "backends", "errors"},
    "backends.quantization.job": {"backends.quantization", "backends.conversion"}
    | {"backends.runtimes.openvino", "backends.runtimes.openvino.core", "backends"},
    "backends.runtimes.openvino": {"backends.runtimes.openvino.core", "backends.quantization"}
    | {"backends.conversion", "backends.preprocessing", "backends", "machine", "errors"},
    "backends.runtimes.lookup": {"backends.preprocessing", "backends"},
    "backends.families": {"backends.runtimes.torch", "backends.preprocessing", "backends"}
    | {"errors"},
    "backends.runtimes.torch": {"backends.preprocessing", "backends", "errors"},
    "backends.quantization": {"backends.runtimes.openvino.core", "backends", "errors"},
    "backends.conversion": {"backends.preprocessing", "backends", "errors"},
    "backends.runtimes.openvino.core": {"machine"},
    "backends.preprocessing": {"backends", "errors"},
    "backends": {"errors"},
    "config": {"errors"},
    "machine": set(),
    "errors": set(),
}
HEAVY = {"torch", "torchvision", "transformers", "open_clip", "sentence_transformers"}
MODEL_LIBRARIES = HEAVY | {"openvino", "tokenizers", "sentencepiece", "safetensors", "nltk"}
# Which of these each folder may import; the others may import none.
MAY_LOAD: dict[str, set[str]] = {
    "fetch": HEAVY,  # in functions only, as ruff sees to: at build time
    "backends.conversion.job": {"openvino", "torch"},
    "backends.quantization.job": {"openvino"},
    "backends.quantization": {"openvino"},
    "backends.runtimes.openvino": {"openvino", "tokenizers"},
    "backends.runtimes.openvino.core": {"openvino"},
    "backends.families": {*HEAVY, "tokenizers", "safetensors"},
    "backends.runtimes.torch": {"torch"},
    "backends.preprocessing": {"tokenizers", "sentencepiece", "nltk"},
    "backends.runtimes.lookup": {"tokenizers", "safetensors"},
}
FILES = sorted(
    [*ROOT.glob("*.py"), *(path for room in HOUSE for path in (ROOT / room).rglob("*.py"))]
)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path) for path in FILES}
for_every_file = pytest.mark.parametrize("path", FILES, ids=name_of)


def room_of(module: str) -> str:
    """The longest name of the table that the module lies in; `backends.load` is one of its own."""
    while module not in MAY_IMPORT:
        module = module.rpartition(".")[0]
    return module


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def own_modules(names: set[str]) -> set[str]:
    """Of imported names those of this project: a module, or the module that a name is in."""
    parents = {name.rpartition(".")[0] for name in names - MODULES}
    return (names | parents) & MODULES


@for_every_file
def test_a_module_imports_what_its_folder_may(path: Path) -> None:
    room = room_of(name_of(path))
    imported = {room_of(module) for module in own_modules(imports_of(path))}

    assert imported <= MAY_IMPORT[room] | {room}


def test_no_folder_imports_one_above_it() -> None:
    floors = list(MAY_IMPORT)

    for number, room in enumerate(floors):
        assert MAY_IMPORT[room] <= set(floors[number + 1 :]), room


def test_every_folder_uses_what_it_may() -> None:
    used: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for path in FILES:
        room = room_of(name_of(path))
        used[room] |= {room_of(module) for module in own_modules(imports_of(path))} - {room}

    assert used == MAY_IMPORT


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name_of(path): own_modules(imports_of(path)) for path in FILES}

    order = list(TopologicalSorter(graph).static_order())  # a CycleError names those of a circle
    assert order.index("app") > order.index("backends.model")


@for_every_file
def test_a_model_library_is_imported_where_it_may_be(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imports_of(path)} & MODEL_LIBRARIES

    assert libraries <= MAY_LOAD.get(room_of(name_of(path)), set())


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("app", MODEL_LIBRARIES),
        ("download", MODEL_LIBRARIES),
        ("backends.load", MODEL_LIBRARIES),
        ("backends.replicas", MODEL_LIBRARIES),
        ("backends.runtimes.openvino.runtime", HEAVY | {"nltk"}),
        ("backends.runtimes.lookup.runtime", HEAVY | {"openvino", "nltk"}),
        ("backends.preprocessing.sentences", HEAVY | {"sklearn", "scipy"}),
    ],
)
def test_importing_it_loads_no_model_library(module: str, libraries: set[str]) -> None:
    program = f"import {module}, sys; print(sorted({libraries!r} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]"
