"""The layers of DESIGN.md, kept by reading every import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODEL_LIBRARIES = {
    *("torch", "torchvision", "transformers", "open_clip", "sentence_transformers"),
    *("openvino", "tokenizers"),
}
# What a converted model is served by; they must do without torch and the families' libraries.
LIGHT = (
    *(
        "base",
        "cleaning",
        "conversion",
        "faults",
        "fingerprint",
        "jobs",
        "mapped_files",
        "openvino_runtime",
    ),
    *("pixels", "precision", "resampling", "siglip1_tokens", "tokens", "two_towers"),
)
BACKENDS = {"inference.backends", "inference.backends.base"}
# What each module may import of this project; a name allows that module and nothing below it.
ALLOWED = {
    "app": {
        "config",
        "inference.errors",
        "inference.load_log",
        "inference.machine",
        "inference.metrics",
        "inference.observers",
        "inference.record",
        "inference.tasks",
        "meta",
        "vectorizer",
        "web.access",
        "web.answers",
        "web.intake",
        "web.logs",
        "web.observed",
        "web.page",
        "web.protocol",
        "web.server",
        "web.wire",
    },
    "web.access": {"inference.errors"},
    "web.answers": {"inference.errors", "web.access", "web.wire"},
    "web.intake": {"config", "inference.admission", "inference.errors", "inference.tasks"},
    "web.logs": {"config", "inference.record"},
    "web.observed": {"inference.record", "web.logs"},
    "web.server": set(),
    "web.page": set(),
    "web.protocol": set(),
    "web.wire": {"inference.errors"},
    "vectorizer": {"config", "inference.backends.base", "inference.errors"}
    | {"inference.decoding", "inference.health", "inference.images", "inference.lane"}
    | {"inference.loading", "inference.machine", "inference.record", "inference.staging"}
    | {"inference.tasks", "inference.vector_cache"},
    "inference.loading": BACKENDS | {"config", "inference.machine", "inference.model_folder"},
    "inference.lane": {
        "inference.admission",
        "inference.backends.base",
        "inference.batcher",
        "inference.errors",
        "inference.health",
        "inference.record",
        "inference.runner",
    },
    "meta": {"config", "inference.backends.base", "inference.vector_cache"},
    "config": {"inference.errors"},
    "inference.errors": set(),
    "inference.model_folder": {"inference.errors"},
    "inference.machine": set(),
    "inference.staging": {"inference.errors"},
    "inference.hub": {"inference.errors", "inference.staging"},
    "inference.fetching": {"inference.errors", "inference.hub", "inference.model_folder"},
    "catalogue": {"inference.errors"},
    "inference.batcher": {
        "inference.batch_queue",
        "inference.errors",
        "inference.health",
        "inference.observers",
        "inference.runner",
        "inference.tasks",
    },
    "inference.runner": {
        "inference.batch_queue",
        "inference.errors",
        "inference.health",
        "inference.observers",
        "inference.tasks",
        "inference.worker_pool",
    },
    "inference.batch_queue": set(),
    "inference.worker_pool": {"inference.errors", "inference.health", "inference.tasks"},
    "inference.observers": set(),
    "inference.tasks": set(),
    "inference.admission": {"inference.errors"},
    "inference.health": {"inference.errors"},
    "inference.images": {"inference.errors", "inference.image_files"},
    "inference.image_files": {"inference.errors"},
    "inference.decoding": {
        "inference.errors",
        "inference.health",
        "inference.images",
        "inference.record",
        "inference.worker_pool",
    },
    "inference.vector_cache": {"inference.errors"},
    "inference.record": {"inference.errors"},
    "inference.load_log": {"inference.record", "inference.runner"},
    "inference.metrics": {
        "inference.backends.base",
        "inference.errors",
        "inference.record",
        "inference.runner",
        "inference.vector_cache",
    },
    "inference.backends.base": set(),
    "inference.backends": {
        "inference.backends",  # its own modules, imported when they are chosen
        "inference.backends.base",
        "inference.backends.openvino_runtime",
        "inference.backends.precision",
        "inference.backends.torch_devices",
        "inference.backends.torch_runtime",
        "inference.errors",
        "inference.model_folder",
        "inference.staging",
    },
}


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def path_of(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def own_modules(names: set[str]) -> set[str]:
    return {name for name in names if name != "inference" and path_of(name).is_file()}


@pytest.mark.parametrize("module", ALLOWED)
def test_imports_point_down_only(module: str) -> None:
    imported = own_modules(imports_of(path_of(module)))

    assert imported <= ALLOWED[module]


@pytest.mark.parametrize("path", sorted((ROOT / "inference/backends").glob("*.py")))
def test_a_backend_knows_nothing_above_it(path: Path) -> None:
    imported = own_modules(imports_of(path))

    below = {"inference.errors", "inference.model_folder", "inference.staging"}
    assert {name for name in imported if not name.startswith("inference.backends")} <= below


@pytest.mark.parametrize("name", LIGHT)
def test_what_serves_a_converted_model_imports_no_heavy_library(name: str) -> None:
    imported = imports_of(ROOT / f"inference/backends/{name}.py")
    own = {module.rpartition(".")[2] for module in own_modules(imported) if "backends." in module}

    assert {module.split(".")[0] for module in imported} & MODEL_LIBRARIES <= {
        "openvino",
        "tokenizers",
    }
    assert own <= set(LIGHT)


def test_model_libraries_are_imported_by_backends_only() -> None:
    files = [*ROOT.glob("*.py"), *(ROOT / "inference").glob("*.py"), *(ROOT / "web").glob("*.py")]
    top_level = {
        path.name: {name.split(".")[0] for name in imports_of(path)} & MODEL_LIBRARIES
        for path in files
        if path.name != "fetching.py"  # at build time it asks open_clip what there is
    }

    assert {name: used for name, used in top_level.items() if used} == {}


def test_importing_the_app_loads_no_model_library() -> None:
    program = f"import app, sys; print(sorted({MODEL_LIBRARIES!r} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]"
