"""int8: quantized at the conversion or at a start with equal results, and served as int8 or not."""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from backends.conversion import conversion_cache
from backends.conversion.conversion_cache import converted
from backends.conversion.description import Description
from backends.embed import embed
from backends.folder import CONVERSIONS, DESCRIPTION, detect
from backends.jobs import JobError
from backends.model import Modality, Model, ModelOptions, Precision, Rows
from backends.quantization import int8
from backends.replicas import load_replica
from backends.runtimes.openvino import runtime
from backends.runtimes.openvino.core import compile_network, read_network
from backends.runtimes.openvino.cpu_capabilities import compile_properties
from backends.similarity import cosines, recall, similarity
from bench.trained import docstrings, trained_encoder
from demo.evaluate import make_gallery
from errors import ConversionError, ModelFolderError
from tests.golden_cases import EVERY_LAYOUT, GOLDEN, LAYOUTS
from tests.golden_texts import GOLDEN_TEXTS
from tests.lesser_cpu import said_on_a_lesser_cpu
from tests.service import CONVERTED, ROOT, running
from tests.warned import warnings_of

DEMO = ROOT / "demo/models"
OPENVINO = ModelOptions(runtime="openvino", cache_dir=CONVERTED)
INT8 = replace(OPENVINO, precision="int8")
FLOAT32 = replace(OPENVINO, precision="float32")
LACKING = "PRECISION=int8: this CPU has no instructions for it, so float32 is used"
HAS_VNNI = "vnni" in Path("/proc/cpuinfo").read_text()
NEEDS_VNNI = pytest.mark.skipif(
    not HAS_VNNI, reason="this CPU has no VNNI: it multiplies no 8 bits"
)


def name_of(folder: Path) -> str:
    return "demo" if folder == DEMO else folder.name


def is_int8(path: Path) -> bool:
    return Description.read(path).weights == "int8"


@pytest.fixture(scope="module", autouse=True)
def exact() -> Path:
    """The demo model in float32, converted first, so that other tests find not only int8."""
    return converted(detect(DEMO), FLOAT32)


@pytest.fixture(scope="module")
def quantized(exact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in int8, quantized without torch."""
    cache = tmp_path_factory.mktemp("cache")
    shutil.copytree(exact, cache / "exact")
    path = converted(detect(DEMO), replace(INT8, cache_dir=cache), written=True)
    assert {one.name for one in cache.iterdir()} == {"exact", path.name}
    return path


@EVERY_LAYOUT
def test_every_family_is_served_in_int8(layout: str) -> None:
    space = load_replica(detect(GOLDEN / layout), FLOAT32).info.vector_space
    info = load_replica(detect(GOLDEN / layout), INT8).info

    assert (info.precision, info.runtime, info.refused) == ("int8", "openvino", "")
    assert info.vector_space != space


def test_an_encoder_of_texts_is_served_in_int8() -> None:
    precisions = [
        load_replica(detect(GOLDEN_TEXTS / "bert"), options).info.precision
        for options in (FLOAT32, INT8)
    ]
    assert precisions == ["float32", "int8"]


def test_quantized_before_or_at_start_it_has_the_same_bits_and_the_same_space(
    exact: Path, quantized: Path
) -> None:
    by_start, by_download = (
        load_replica(detect(DEMO), INT8),
        load_replica(detect(quantized), OPENVINO),
    )
    gallery = make_gallery(seed=1, size=4)

    assert not is_int8(exact)
    assert is_int8(quantized)
    assert by_start.info == by_download.info
    given: dict[Modality, Sequence[Any]] = {"text": gallery.captions, "image": gallery.images}
    for modality, contents in given.items():
        one, other = (embed(of.towers[modality], contents) for of in (by_start, by_download))
        assert np.array_equal(one, other)


def test_it_takes_a_quarter_of_what_the_products_took(exact: Path, quantized: Path) -> None:
    """Tables take half; the rest is small."""
    before, after = ((path / "image.bin").stat().st_size for path in (exact, quantized))

    assert after < 0.35 * before


def test_a_table_is_halved_and_no_row_of_it_moves() -> None:
    rows = np.random.default_rng(0).standard_normal((100, 48)).astype(np.float32)
    rows[0, 0] = 1e6  # beyond float16
    ids = ops.parameter([-1], ov.Type.i64)
    network = ov.Model([ops.gather(ops.constant(rows), ids, ops.constant(0))], [ids])
    int8.quantize_weights(network)
    found = compile_network(network, int8.PROPERTIES)(np.arange(100))[0]

    assert {str(node.get_element_type()) for node in network.get_ops()} >= {"<Type: 'float16'>"}
    assert np.abs(found[1:] - rows[1:]).max() <= np.abs(rows[1:]).max() / 2**11
    assert np.isfinite(found).all()


def test_a_start_writes_nothing(exact: Path, tmp_path: Path) -> None:
    shutil.copytree(exact, tmp_path / "exact")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    model = load_replica(detect(DEMO), replace(INT8, cache_dir=tmp_path))

    assert model.info.precision == "int8"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@NEEDS_VNNI
@pytest.mark.parametrize("tower", ["text", "image"])
@pytest.mark.parametrize("folder", [DEMO, *(GOLDEN / layout for layout in LAYOUTS)], ids=name_of)
def test_on_vnni_every_product_is_one_of_int8(folder: Path, tower: Modality) -> None:
    path = converted(detect(folder), FLOAT32)
    networks = [read_network(path / name) for name in Description.read(path).towers[tower].files]
    products = []
    for network in networks:
        int8.quantize_weights(network)
        assert int8.quantize_activations(network) or len(networks) > 1  # some stages only look up
        compiled = compile_network(network, int8.PROPERTIES)
        operations = (one.get_rt_info() for one in compiled.get_runtime_model().get_ops())
        products += [
            info["runtimePrecision"].value
            for info in operations
            if info["layerType"].value == "FullyConnected"
        ]

    assert len(products) > (10 if folder == DEMO else 5)
    assert set(products) <= {"u8", "i8"}


@NEEDS_VNNI
@pytest.mark.parametrize(
    ("lesser", "known"), [("AVX2", "False"), ("AVX512_CORE", "False"), ("", "True")]
)
def test_it_is_known_where_sums_of_int8_are_cut_off(lesser: str, known: str) -> None:
    """Emulates the instructions of CPUs that are older than VNNI."""
    program = "from backends.quantization import int8; print(int8.multiplies())"

    assert said_on_a_lesser_cpu(lesser, program) == known


def few(model: Model) -> dict[Modality, Rows]:
    """Embed a few inputs of the demo."""
    gallery = make_gallery(seed=1, size=24)
    return {
        "text": embed(model.towers["text"], gallery.captions),
        "image": embed(model.towers["image"], gallery.images),
    }


@NEEDS_VNNI
def test_without_vnni_weights_alone_have_int8_and_the_space_says_so(
    exact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    by_vnni = load_replica(detect(DEMO), INT8)
    monkeypatch.setattr(int8, "multiplies", lambda: False)
    with caplog.at_level(logging.INFO):
        without = load_replica(detect(DEMO), INT8)
    by_both, by_weights = few(by_vnni), few(without)

    assert "a quarter of the memory, but is not faster" in caplog.text
    assert without.info.precision == by_vnni.info.precision == "int8"
    assert without.info.vector_space != by_vnni.info.vector_space
    for modality, rows in few(load_replica(detect(DEMO), FLOAT32)).items():
        assert cosines(rows, by_weights[modality]).min() > cosines(rows, by_both[modality]).min()


def random(*shape: int) -> Rows:
    found: Rows = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    return found


TOKENS = {
    "random": random(2, 5, 64),
    "of nothing": np.zeros((1, 64), np.float32),
    "without a range": np.full((3, 64), 3.5, np.float32),
    "tiny": np.full((1, 64), -1e-39, np.float32),
    "huge": np.array([[1e30] + [0.0] * 63], np.float32),
    "far from 0": 1e4 + random(4, 64),
}
SIGNS = np.array([1, -1], np.float32)
WEIGHTS = {
    "random": random(8, 64),
    "that sum up to 0": np.tile(127 * SIGNS, (8, 32)),
    "that sum up to 1": np.concatenate([np.tile(127 * SIGNS, (8, 31)), [[1, 0]] * 8], 1),
    "below 0": -np.abs(random(8, 64)),
    "of nothing": np.zeros((8, 64), np.float32),
}


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("is_transposed", [True, False])
@pytest.mark.parametrize("can_multiply", [True, False])
def test_any_token_is_multiplied_with_any_weights(
    tokens: str,
    weights: str,
    is_transposed: bool,
    can_multiply: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(int8, "multiplies", lambda: can_multiply)
    given, matrix = TOKENS[tokens], WEIGHTS[weights].astype(np.float32)
    rows = ops.parameter([-1] * (given.ndim - 1) + [64], ov.Type.f32)
    constant = ops.constant(matrix if is_transposed else np.ascontiguousarray(matrix.T))
    network = ov.Model([ops.matmul(rows, constant, False, is_transposed)], [rows])
    int8.quantize_weights(network)
    assert int8.quantize_activations(network)
    found = compile_network(network, int8.PROPERTIES)(given)[0]

    exact = given.astype(np.float64)
    steps = np.linalg.norm(matrix, axis=1) * np.ptp(exact, -1, keepdims=True) / 255
    # A few roundings of tokens by half a step, and of weights by half of theirs.
    bound = 2 * steps + np.abs(matrix).max(1) / 127 * np.linalg.norm(exact, axis=-1, keepdims=True)
    least_normal = 64 * np.finfo(np.float32).tiny
    assert np.all(np.abs(found - exact @ matrix.T) <= bound + least_normal)


# By all inputs at once and one by one; MiniLM, as what one layer loses the next ones magnify.
APART = """
import sys
from pathlib import Path

import numpy as np

from backends.embed import embed
from backends.folder import detect
from backends.replicas import load_replica
from backends.model import ModelOptions
from bench.trained import docstrings

options = ModelOptions(runtime="openvino", precision="int8", cache_dir=Path(sys.argv[2]))
tower = load_replica(detect(Path(sys.argv[1])), options).towers["text"]
texts = docstrings()[:24]
together, alone = embed(tower, texts), np.concatenate([embed(tower, [text]) for text in texts])
print((np.linalg.norm(alone - together, axis=1) / np.linalg.norm(alone, axis=1)).max())
"""


@pytest.mark.usefixtures("converting_here")
@pytest.mark.parametrize("lesser", ["AVX2", ""])
def test_no_text_of_a_trained_encoder_depends_on_its_batch_mates(
    lesser: str, tmp_path: Path
) -> None:
    folder = trained_encoder(tmp_path)
    converted(detect(folder), FLOAT32)

    assert float(said_on_a_lesser_cpu(lesser, APART, folder, CONVERTED)) <= 1e-5


@pytest.mark.parametrize("modality", ["text", "image"])
def test_no_vector_depends_on_its_batch_mates(modality: Modality) -> None:
    tower = load_replica(detect(DEMO), INT8).towers[modality]
    gallery = make_gallery(seed=2, size=24)
    contents: Sequence[Any] = gallery.captions if modality == "text" else gallery.images
    together = embed(tower, contents)
    alone = np.concatenate([embed(tower, [content]) for content in contents])

    apart = np.linalg.norm(alone - together, axis=1) / np.linalg.norm(alone, axis=1)
    assert apart.max() <= 1e-5


def test_the_demo_finds_what_it_finds_in_float32() -> None:
    gallery = make_gallery(seed=1, size=200)

    def found(options: ModelOptions) -> Rows:
        towers = load_replica(detect(DEMO), options).towers
        return similarity(
            embed(towers["text"], gallery.captions), embed(towers["image"], gallery.images)
        )

    assert recall(found(FLOAT32), found(INT8)) >= 0.975


def test_a_trained_encoder_finds_what_it_finds_in_float32(tmp_path: Path) -> None:
    folder, texts = detect(trained_encoder(tmp_path)), docstrings()[::3]

    def found(options: ModelOptions) -> Rows:
        return similarity(embed(load_replica(folder, options).towers["text"], texts))

    assert recall(found(FLOAT32), found(INT8)) >= 0.96  # in this order, see `exact`


@pytest.mark.parametrize("precision", [None, "float32", "bfloat16"])
def test_a_folder_of_int8_alone_gives_them_and_nothing_else(
    precision: Precision | None, quantized: Path, tmp_path: Path
) -> None:
    shutil.copytree(quantized, tmp_path / CONVERSIONS / quantized.name)
    options = ModelOptions(runtime="openvino", precision=precision)
    if precision is None:
        assert load_replica(detect(tmp_path), options).info.precision == "int8"
        return
    with pytest.raises(ModelFolderError, match=f"int8, .* unset PRECISION={precision}"):
        load_replica(detect(tmp_path), options)


def test_unset_it_is_what_the_folder_holds_and_float32_first(
    exact: Path, quantized: Path, tmp_path: Path
) -> None:
    original = tmp_path / "models"
    shutil.copytree(DEMO, original, ignore=shutil.ignore_patterns(CONVERSIONS))
    cache = tmp_path / "cache"
    options = replace(OPENVINO, cache_dir=cache)
    shutil.copytree(quantized, cache / quantized.name)
    assert load_replica(detect(original), options).info.precision == "int8"
    shutil.copytree(exact, cache / exact.name)
    assert load_replica(detect(original), options).info.precision == "float32"
    assert converted(detect(original), replace(options, precision="int8")) == cache / quantized.name


def test_what_is_not_the_same_model_in_int8_is_served_in_float32(
    exact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(int8, "_LARGEST", 3)  # as many steps as 3 bits have
    model = load_replica(detect(DEMO), INT8)

    refused = model.info.refused
    assert refused.startswith("PRECISION=int8: in int8 this model's texts differ too much")
    assert refused.endswith("at worst, so float32 is used")
    assert warnings_of(caplog) == [refused]
    assert replace(model.info, refused="") == load_replica(detect(DEMO), FLOAT32).info


def test_a_model_without_products_that_int8_are_for_says_so(
    exact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(int8, "quantize_weights", lambda _network: None)
    info = load_replica(detect(DEMO), INT8).info

    assert info.precision == "float32"
    assert info.refused == (
        "PRECISION=int8: this model has no matrix products that use it, so float32 is used"
    )
    assert warnings_of(caplog) == [info.refused]


@pytest.fixture
def without_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without code for int8."""
    monkeypatch.setattr(runtime, "precisions", lambda: ("float32",))


@pytest.mark.usefixtures("without_int8")
def test_a_machine_without_code_for_it_serves_float32(caplog: pytest.LogCaptureFixture) -> None:
    info = load_replica(detect(DEMO), INT8).info

    assert info.refused == LACKING
    assert warnings_of(caplog) == [LACKING]
    assert replace(info, refused="") == load_replica(detect(DEMO), FLOAT32).info


@pytest.mark.usefixtures("without_int8")
@pytest.mark.parametrize("precision", [None, "int8"])
def test_there_a_folder_of_int8_gives_float32_if_it_can_and_a_sentence_if_not(
    precision: Precision | None,
    exact: Path,
    quantized: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = replace(OPENVINO, precision=precision)
    shutil.copytree(quantized, tmp_path / CONVERSIONS / quantized.name)
    with pytest.raises(ModelFolderError, match=r"this CPU cannot compute.*PRECISION=float32"):
        load_replica(detect(tmp_path), options)

    shutil.copytree(exact, tmp_path / CONVERSIONS / exact.name)
    info = load_replica(detect(tmp_path), options).info
    # If it holds both, int8 is served if it is requested.
    assert info.refused == (LACKING if precision else "")
    assert warnings_of(caplog) == [LACKING] * bool(precision)
    assert replace(info, refused="") == load_replica(detect(DEMO), FLOAT32).info


@pytest.mark.usefixtures("without_int8")
@pytest.mark.parametrize("precision", [None, "int8"])
def test_there_float32_is_made_where_the_original_is_and_only_int8_were_kept(
    precision: Precision | None,
    exact: Path,
    quantized: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cache of int8 alone was requested as such, also if this start does not set PRECISION."""
    original, cache = tmp_path / "models", tmp_path / "cache"
    shutil.copytree(DEMO, original, ignore=shutil.ignore_patterns(CONVERSIONS))
    shutil.copytree(quantized, cache / quantized.name)
    monkeypatch.setattr(
        conversion_cache, "_convert", lambda *given: shutil.copytree(exact, given[-1])
    )
    options = replace(OPENVINO, cache_dir=cache, precision=precision)
    info = load_replica(detect(original), options).info

    assert (info.precision, info.refused) == ("float32", LACKING)
    assert warnings_of(caplog) == [LACKING]


def test_a_cpu_with_avx2_alone_computes_int8_too(quantized: Path, tmp_path: Path) -> None:
    """Slower than float32, in a quarter of the memory."""
    reported = running(tmp_path / "log", MODELS_DIR=quantized, ONEDNN_MAX_CPU_ISA="AVX2")
    with reported as service:
        status, said = service.request("GET", "/meta")
        vector = service.request("POST", "/vectorize", {"texts": ["a red circle"], "images": []})

    assert (status, vector[0], said["service"]["precision"]) == (200, 200, "int8")
    assert "but is not faster" in service.log.read_text()


def test_where_int8_are_all_there_is_float32_is_not_recommended(
    exact: Path, quantized: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        load_replica(detect(quantized), OPENVINO)
        assert "Computing in int8" in caplog.text
        assert "PRECISION=float32" not in caplog.text
        load_replica(detect(DEMO), INT8)
        assert "PRECISION=float32 gives" in caplog.text


def test_both_jobs_of_a_start_share_its_time(
    exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second job has the time that the first left."""
    original = tmp_path / "models"
    shutil.copytree(DEMO, original, ignore=shutil.ignore_patterns(CONVERSIONS))
    given: list[float] = []

    def convert(*arguments: Any) -> None:
        time.sleep(0.2)
        shutil.copytree(exact, arguments[-1])

    def refuse(*_: object, timeout_s: float, **__: object) -> None:
        given.append(timeout_s)
        raise JobError("no time")

    monkeypatch.setattr(conversion_cache, "_convert", convert)
    monkeypatch.setattr(conversion_cache, "run_in_subprocess", refuse)
    converted(detect(original), replace(INT8, cache_dir=tmp_path / "cache"), written=True)

    (left_s,) = given
    assert left_s <= conversion_cache._TIMEOUT_S - 0.2


def test_a_download_that_cannot_be_turned_into_int8_keeps_float32(
    exact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = Path(shutil.copytree(exact, tmp_path / "exact"))
    monkeypatch.setattr(conversion_cache, "_QUANTIZE", "tests.job_for_a_process")
    options = replace(INT8, cache_dir=tmp_path)

    assert converted(detect(DEMO), options, written=True) == path
    assert "PRECISION=int8: " in caplog.text
    assert list(tmp_path.iterdir()) == [path]


def test_a_start_says_why_a_download_kept_float32(
    exact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise JobError("in int8 it is another model")

    def starts(precision: Precision | None) -> str:
        caplog.clear()
        info = load_replica(detect(DEMO), replace(INT8, cache_dir=cache, precision=precision)).info
        assert warnings_of(caplog) == [info.refused] * bool(info.refused)
        return info.refused

    cache = tmp_path / "cache"
    path = Path(shutil.copytree(exact, cache / "exact"))
    (path / DESCRIPTION).chmod(0o604)
    assert starts(None) == ""
    with monkeypatch.context() as patched:
        patched.setattr(conversion_cache, "run_in_subprocess", refuse)
        converted(detect(DEMO), replace(INT8, cache_dir=cache), written=True)

    why = "in int8 it is another model"
    assert starts(None) == f"PRECISION=int8: {why}, so float32 is used"
    assert starts("float32") == ""  # it is what was asked for
    assert starts("int8") == ""  # it is tried, and goes well
    assert (path / DESCRIPTION).stat().st_mode & 0o777 == 0o604
    assert {one.name for one in path.iterdir()} == {one.name for one in exact.iterdir()}
    # Another download may succeed, and neither folder says any longer that one did not.
    quantized = converted(detect(DEMO), replace(INT8, cache_dir=cache), written=True)
    assert [Description.read(one).refused for one in (path, quantized)] == ["", ""]
    assert is_int8(quantized)
    assert starts(None) == ""


def test_torch_computes_in_float32_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = load_replica(detect(GOLDEN / "openai"), replace(INT8, runtime="torch"))

    assert model.info.precision == "float32"
    assert (
        model.info.refused
        == "PRECISION=int8: torch does not compute in int8 here, so float32 is used"
    )
    assert warnings_of(caplog) == [model.info.refused]


def test_a_model_that_torch_has_to_serve_says_that_it_is_not_in_int8(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise ConversionError("it has an operation of its own")

    monkeypatch.setattr(runtime, "converted", refuse)
    info = load_replica(detect(GOLDEN / "openai"), INT8).info

    assert (info.runtime, info.precision) == ("torch", "float32")
    assert info.refused == "PRECISION=int8: torch does not compute in int8 here, so float32 is used"
    why, refused = warnings_of(caplog)
    assert "it has an operation of its own" in why
    assert refused == info.refused


_DEVIATIONS = np.array([60, 65, 70], np.float32).reshape(1, 3, 1, 1)


class _Images(NamedTuple):
    """An image tower that ends with its patches, and its result in float32."""

    network: ov.Model
    exact: Any

    @classmethod
    def of(cls, weights: Rows, strides: Sequence[int] = (4, 4), pad: int = 0) -> "_Images":
        pixels = ops.parameter([-1, 3, 8, 12], ov.Type.u8)
        means = np.array([100, 120, 140], np.float32).reshape(1, 3, 1, 1)
        shifted = ops.subtract(ops.convert(pixels, "f32"), ops.constant(means))
        normalized = ops.divide(shifted, ops.constant(_DEVIATIONS))
        pads = [pad, pad]
        patches = ops.convolution(normalized, ops.constant(weights), strides, pads, pads, [1, 1])
        network = ov.Model([patches], [pixels])
        return cls(network, compile_network(network, compile_properties("float32")))


def kinds_of(network: ov.Model) -> Counter[str]:
    return Counter(op.get_type_name() for op in network.get_ops())


def test_patches_are_products_of_bytes_and_those_are_not_rounded() -> None:
    """With weights that are exact in int8, nothing is rounded."""
    weights = np.random.default_rng(0).integers(-127, 128, (5, 3, 4, 4)).astype(np.float32)
    weights[:, 0, 0, 0] = 127
    images = np.random.default_rng(1).integers(0, 256, (2, 3, 8, 12)).astype(np.uint8)
    tower = _Images.of(weights * _DEVIATIONS)
    expected = tower.exact(images)[0].copy()
    int8.quantize_weights(tower.network)

    assert "Convolution" not in kinds_of(tower.network)
    assert int8.quantize_activations(tower.network)
    found = compile_network(tower.network, int8.PROPERTIES)(images)[0]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("strides", "pad"), [((2, 2), 0), ((4, 4), 2)])
def test_a_convolution_that_is_no_product_of_patches_stays(
    strides: Sequence[int], pad: int
) -> None:
    tower = _Images.of(np.ones((5, 3, 4, 4), np.float32), strides, pad)
    int8.quantize_weights(tower.network)

    assert kinds_of(tower.network)["Convolution"] == 1


@pytest.mark.parametrize(
    "layout", [name for name in LAYOUTS if name not in ("siglip2_naflex", "qwen3_vl")]
)
def test_no_family_takes_its_patches_by_a_convolution(layout: str) -> None:
    """Where images are bytes; NaFlex and Qwen3-VL bring patches, which need none."""
    network = read_network(converted(detect(GOLDEN / layout), FLOAT32) / "image.xml")
    before = kinds_of(network)["Convolution"]
    int8.quantize_weights(network)

    assert before == 1
    assert kinds_of(network)["Convolution"] == 0
