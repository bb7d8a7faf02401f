"""The name of a vector space: equal where vectors can be compared, and nowhere else."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from backends.conversion import fingerprint
from backends.conversion.conversion_cache import converted
from backends.conversion.description import Description
from backends.folder import detect
from backends.identity import PREPROCESSING_VERSIONS, Identity
from backends.model import Modality, ModelOptions, Precision
from backends.replicas import load_replica
from backends.runtimes.openvino.cpu_capabilities import precisions
from backends.runtimes.openvino.network import OpenVinoNetwork
from tests.golden_cases import EVERY_LAYOUT, EVERY_RUNTIME, GOLDEN, RUNTIMES, golden_model
from tests.golden_texts import text_model
from tests.lesser_cpu import said_on_a_lesser_cpu
from tests.service import CONVERTED

IDENTITY = Identity("openai", "abc", 1, ["trained", "reference"])
FLOAT32: dict[Modality, str] = {"text": "float32", "image": "float32"}
OPENVINO = ModelOptions(runtime="openvino", cache_dir=CONVERTED)


def space_of(root: Path, options: ModelOptions | None = None) -> str:
    return load_replica(detect(root), options or ModelOptions()).info.vector_space


@EVERY_LAYOUT
def test_torch_and_openvino_have_one_space_in_float32(layout: str) -> None:
    spaces = {golden_model(layout, "trained", one).info.vector_space for one in RUNTIMES}

    assert len(spaces) == 1
    assert all(len(space) == 12 and int(space, 16) >= 0 for space in spaces)


def test_how_the_operator_wants_texts_read_is_part_of_it_where_it_is_read() -> None:
    def spaces(name: str) -> set[str]:
        return {
            text_model(name, runtime, direct).info.vector_space
            for runtime in RUNTIMES
            for direct in (False, True)
        }

    assert len(spaces("bert")) == 2
    assert len(spaces("model2vec")) == 1


def test_text_modes_that_are_equal_are_one_space() -> None:
    def spaces(layout: str) -> set[str]:
        return {
            golden_model(layout, mode, runtime).info.vector_space
            for mode in ("trained", "reference")
            for runtime in RUNTIMES
        }

    assert len(spaces("openai")) == len(spaces("openclip")) == 1
    assert len(spaces("siglip")) == len(spaces("metaclip2")) == 2


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, family="siglip"),
        replace(IDENTITY, content="abd"),
        replace(IDENTITY, recipe=2),
        replace(IDENTITY, text_modes=["trained"]),
    ],
)
def test_all_that_shapes_vectors_is_in_it(other: Identity) -> None:
    assert other.vector_space(FLOAT32) != IDENTITY.vector_space(FLOAT32)


def test_the_arithmetic_of_each_tower_is_in_it_and_its_order_is_not() -> None:
    spaces = {IDENTITY.vector_space({**FLOAT32, one: "bfloat16"}) for one in FLOAT32}
    spaces.add(IDENTITY.vector_space(dict.fromkeys(FLOAT32, "bfloat16")))
    spaces.add(IDENTITY.vector_space(FLOAT32))
    backwards = dict(reversed(FLOAT32.items()))

    assert len(spaces) == 4
    assert IDENTITY.vector_space(backwards) == IDENTITY.vector_space(FLOAT32)
    assert replace(IDENTITY, text_modes=["reference", "trained"]).vector_space(
        FLOAT32
    ) == IDENTITY.vector_space(FLOAT32)


@EVERY_RUNTIME
def test_a_copy_is_the_same_space_and_another_byte_is_another(runtime: str, tmp_path: Path) -> None:
    root = Path(shutil.copytree(GOLDEN / "openai", tmp_path / "models"))
    for path in root.rglob("*"):
        os.utime(path, (1, 1))
    options = OPENVINO if runtime == "openvino" else ModelOptions(cache_dir=CONVERTED)
    assert space_of(root, options) == space_of(GOLDEN / "openai", options)

    if runtime == "torch":
        config = root / "openai_clip_processor/preprocessor_config.json"
        config.write_text(config.read_text() + "\n")
        assert space_of(root, options) != space_of(GOLDEN / "openai", options)


def test_another_version_of_code_or_of_a_library_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {space_of(GOLDEN / "openai", options) for options in (OPENVINO, ModelOptions())}
    monkeypatch.setattr(fingerprint, "version", lambda _library: "99")
    monkeypatch.setattr(fingerprint, "digest_code", lambda: "another")
    after = {space_of(GOLDEN / "openai", options) for options in (OPENVINO, ModelOptions())}

    assert before == after
    assert len(after) == 1


def test_another_recipe_of_this_family_changes_it_and_of_another_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = space_of(GOLDEN / "openai")
    monkeypatch.setitem(PREPROCESSING_VERSIONS, "siglip", 2)
    assert space_of(GOLDEN / "openai") == before
    monkeypatch.setitem(PREPROCESSING_VERSIONS, "openai", 2)
    assert space_of(GOLDEN / "openai") != before


def test_a_converted_model_keeps_the_space_that_it_was_made_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = space_of(GOLDEN / "openai")
    alone = shutil.copytree(converted(detect(GOLDEN / "openai"), OPENVINO), tmp_path / "models")
    monkeypatch.setitem(PREPROCESSING_VERSIONS, "openai", 2)

    assert space_of(alone, replace(OPENVINO, cache_dir=None)) == before
    assert Description.read(alone).identity.content == fingerprint.digest_content(
        detect(GOLDEN / "openai")
    )


def test_a_model_that_was_converted_is_not_read_again_for_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    converted(detect(GOLDEN / "openai"), OPENVINO)
    monkeypatch.delattr(fingerprint, "digest_content")

    assert space_of(GOLDEN / "openai", replace(OPENVINO, runtime="torch"))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_another_precision_is_another_space(precision: Precision) -> None:
    """A precision that the CPU lacks has the space of float32, like its vectors."""
    by_runtime = [
        load_replica(detect(GOLDEN / "openai"), replace(OPENVINO, precision=precision)).info,
        load_replica(detect(GOLDEN / "openai"), ModelOptions(precision=precision)).info,
    ]
    exact = space_of(GOLDEN / "openai")
    for info in by_runtime:
        assert (info.vector_space == exact) == (info.precision == "float32")
    assert {info.vector_space for info in by_runtime if info.precision == precision} <= {
        Identity(
            "openai", fingerprint.digest_content(detect(GOLDEN / "openai")), 1, IDENTITY.text_modes
        ).vector_space(dict.fromkeys(FLOAT32, precision))
    }


@pytest.mark.parametrize("precision", precisions())
def test_a_pass_shows_the_precision_that_was_asked_for(precision: Precision) -> None:
    path = converted(detect(GOLDEN / "openai"), OPENVINO)
    for tower in ("text.xml", "image.xml"):
        network = OpenVinoNetwork(path / tower, ModelOptions(precision=precision))
        assert network.precision() == precision


@pytest.mark.skipif(
    "avx512f" not in Path("/proc/cpuinfo").read_text(), reason="imitates a CPU with AVX512"
)
def test_a_pass_shows_that_another_precision_is_used_than_was_asked_for() -> None:
    """Emulates a runtime that uses another precision: oneDNN does not use float16 instructions."""
    path = converted(detect(GOLDEN / "openai"), OPENVINO)
    program = """
import sys
from pathlib import Path
from backends.model import ModelOptions
from backends.runtimes.openvino.network import OpenVinoNetwork
print(OpenVinoNetwork(Path(sys.argv[1]), ModelOptions(precision="float16")).precision())
"""

    assert said_on_a_lesser_cpu("AVX512_CORE", program, path / "text.xml") != "float16"
