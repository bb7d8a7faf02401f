"""Weights that are missing, of another shape or not finite, in every family and form of a model."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backends.conversion.conversion_cache import converted
from backends.embed import embed
from backends.folder import detect
from backends.model import ModelOptions
from backends.parity_inputs import parity_inputs
from backends.replicas import load_replica
from backends.runtimes.openvino.constants import refuse_unfit_weights
from backends.runtimes.openvino.core import read_network
from backends.weights import common_prefix, strange_prefix
from errors import ModelFolderError
from fetch.layouts import _SAVE, LayoutJob, make_layout
from tests.golden_cases import GOLDEN, LAYOUTS, golden_model
from tests.golden_texts import GOLDEN_TEXTS, NETWORKS, text_model
from tests.service import CONVERTED
from tests.warned import warnings_of

Weights = dict[str, Tensor]
EVERY_MODEL = pytest.mark.parametrize("name", [*LAYOUTS, *NETWORKS, "model2vec"])
# What a vector of each depends on, in the order of the families' own names.
NEEDED = ("layers.1.", "layer.1.", "resblocks.1.", "block.1.", "block.0.", "layers.0.", "embedding")
UNNEEDED = ("pooler", "logit_scale", "logit_bias", "position_ids", "decoder")


def folder_of(name: str) -> Path:
    return GOLDEN / name if name in LAYOUTS else GOLDEN_TEXTS / name


def rewritten(name: str, root: Path, change: Callable[[Weights], Weights]) -> Path:
    """A copy of a golden model with changed weights."""
    shutil.copytree(folder_of(name), root)
    for path in root.rglob("*.safetensors"):
        save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return root


def one_of(weights: Weights) -> str:
    """The name of a weight in the middle of a network, where there is one."""
    wide = sorted(name for name, weight in weights.items() if weight.ndim == 2)
    named = (name for part in NEEDED for name in wide if part in name and "bias" not in name)
    return next((name for name in named if not any(one in name for one in UNNEEDED)), wide[0])


def in_parallel(weights: Weights) -> Weights:
    return {f"module.{name}": weight for name, weight in weights.items()}


def without_one(weights: Weights) -> Weights:
    return {name: weight for name, weight in weights.items() if name != one_of(weights)}


def with_one_misshapen(weights: Weights) -> Weights:
    return {**weights, one_of(weights): torch.zeros(3, 5)}


def with_a_nan(weights: Weights) -> Weights:
    weights[one_of(weights)][0, -1] = torch.nan
    return weights


def with_an_infinity(weights: Weights) -> Weights:
    weights[one_of(weights)][-1, 0] = torch.inf
    return weights


def without_the_unneeded(weights: Weights) -> Weights:
    return {
        name: weight
        for name, weight in weights.items()
        if not any(part in name for part in UNNEEDED)
    }


@EVERY_MODEL
@pytest.mark.parametrize("change", [in_parallel, without_the_unneeded])
def test_other_names_and_weights_that_nothing_needs_change_no_vector(
    name: str, change: Callable[[Weights], Weights], tmp_path: Path
) -> None:
    model = load_replica(detect(rewritten(name, tmp_path / "models", change)), ModelOptions())
    original = golden_model(name, "trained") if name in LAYOUTS else text_model(name)

    for modality, tower in model.towers.items():
        expected = original.towers[modality]
        inputs = parity_inputs(modality, expected, 20)[:2]
        np.testing.assert_array_equal(embed(tower, inputs), embed(expected, inputs))


@EVERY_MODEL
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_one, "is missing"),
        (with_one_misshapen, r"is \[3, 5\], where \[\d+, \d+\] is needed"),
        (with_a_nan, "is not finite"),
        (with_an_infinity, "is not finite"),
    ],
)
def test_a_weight_that_vectors_depend_on_and_that_does_not_fit_is_named(
    name: str, change: Callable[[Weights], Weights], said: str, tmp_path: Path
) -> None:
    root = rewritten(name, tmp_path / "models", change)
    if name == "model2vec" and change is with_one_misshapen:
        pytest.skip("a table may have any shape")

    with pytest.raises(ModelFolderError, match=f"its weights do not fit: \\S+ {said}"):
        load_replica(detect(root), ModelOptions())


def test_of_many_the_first_few_are_named(tmp_path: Path) -> None:
    def without_layers(weights: Weights) -> Weights:
        return {name: weight for name, weight in weights.items() if "layer." not in name}

    root = rewritten("bert", tmp_path / "models", without_layers)

    with pytest.raises(ModelFolderError, match=r"is missing, \S+ is missing, .*, and so on$"):
        load_replica(detect(root), ModelOptions())


@pytest.mark.usefixtures("converting_here")
def test_a_conversion_refuses_them_too_and_leaves_nothing_to_torch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = rewritten("bert", tmp_path / "models", without_one)
    options = ModelOptions(runtime="openvino", cache_dir=tmp_path / "cache")

    for make in (load_replica, converted):
        with pytest.raises(ModelFolderError, match=r"its weights do not fit: .* is missing$"):
            make(detect(root), options)
    assert not (tmp_path / "cache").exists()
    assert not warnings_of(caplog)


@pytest.mark.parametrize("layout", ["openai", "siglip"])
def test_a_converted_model_whose_file_was_damaged_names_the_weight(
    layout: str, tmp_path: Path
) -> None:
    options = ModelOptions(runtime="openvino", cache_dir=CONVERTED)
    root = Path(shutil.copytree(converted(detect(GOLDEN / layout), options), tmp_path / "models"))
    shutil.rmtree(root / "source.json", ignore_errors=True)
    damage(root / "text.bin", read_network(root / "text.xml"))

    with pytest.raises(ModelFolderError, match=r"its weights do not fit: \S+ is not finite"):
        load_replica(detect(root), replace(options, cache_dir=None))


def test_an_onnx_file_that_was_damaged_names_the_weight(tmp_path: Path) -> None:
    root = Path(shutil.copytree(GOLDEN_TEXTS / "onnx", tmp_path / "models"))
    path = root / "model/model_quantized.onnx"
    damage(path, read_network(path))

    with pytest.raises(ModelFolderError, match=r"its weights do not fit: \S+ is not finite"):
        load_replica(detect(root), ModelOptions())


def damage(path: Path, network: object) -> None:
    """Write NaN over the first number of a network's largest weight in float32."""
    constants = [
        op.data
        for op in network.get_ops()  # type: ignore[attr-defined]
        if op.get_type_name() == "Constant" and op.get_element_type().is_real()
    ]
    found = bytes(max(constants, key=np.size).flatten()[:16].tobytes())
    content = bytearray(path.read_bytes())
    place = content.index(found)
    content[place : place + 4] = np.float32(np.nan).tobytes()
    path.unlink()  # what is mapped stays as it is
    path.write_bytes(content)


def test_minus_infinity_in_a_mask_is_no_fault() -> None:
    import openvino as ov
    from openvino import opset13 as ops

    given = ops.parameter([1, 3], np.float32)

    def network(constant: list[float]) -> ov.Model:
        return ov.Model([ops.add(given, ops.constant(np.array([constant], np.float32)))], [given])

    refuse_unfit_weights(network([0, -np.inf, 0]))
    for unfit in ([0, np.nan, 0], [0.5, np.inf, 1]):
        with pytest.raises(ValueError, match="is not finite"):
            refuse_unfit_weights(network(unfit))


def test_what_is_fetched_and_lacks_weights_is_refused(tmp_path: Path) -> None:
    source = rewritten("bert", tmp_path / "hub", without_one) / "model"
    target = tmp_path / "models"
    target.mkdir()
    job = LayoutJob("text", str(target), {"model": str(source)}, str(tmp_path / "hub"), trust=False)

    with pytest.raises(ModelFolderError, match=r"its weights do not fit: \S+ is missing$"):
        make_layout(job)


def test_what_is_fetched_is_saved_without_what_it_lacked(tmp_path: Path) -> None:
    from backends.families.checkpoints import checkpoints_noted

    source = rewritten("bert", tmp_path / "models", without_the_unneeded) / "model"
    with checkpoints_noted():
        _SAVE["text"]({"model": source}, tmp_path, False)

    saved, stored = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "model", source)
    )
    assert saved.keys() == stored.keys()


def test_a_prefix_is_one_where_the_rest_fits() -> None:
    assert common_prefix(["module.a.b", "module.a.c"]) == "module.a."
    assert common_prefix(["a.b", "b"]) == common_prefix([]) == ""
    assert strange_prefix({"bert.a.b"}, {"module.bert.a.b", "module.bert.c"}, "bert.") == "module."
    assert strange_prefix({"pooler.weight"}, {"cls.weight", "cls.bias"}) == ""
