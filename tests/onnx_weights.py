"""The golden ONNX model as the encoder that it was made of, but for what was rounded away."""

import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

from backends.runtimes.openvino.core import read_network
from tests.golden_texts import GOLDEN_TEXTS

_EMBEDDINGS = ("word", "token_type", "position")
_PRODUCTS = (  # of a layer, in the order of the file
    *("attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "intermediate.dense", "output.dense"),
)


def unquantized(folder: Path) -> None:
    """Write it as `save_pretrained` does, to be read by the recipe of the ONNX images."""
    source = GOLDEN_TEXTS / "onnx/model"
    config = BertConfig.from_pretrained(source)
    network = read_network(source / "model_quantized.onnx")
    constants = {
        op.get_friendly_name(): op.data
        for op in network.get_ops()
        if op.get_type_name() == "Constant"
    }
    weights = {
        name.removesuffix("_quantized"): _dequantize(constants, name.removesuffix("_quantized"))
        for name in constants
        if name.endswith("_quantized")
    }
    state = {
        f"embeddings.{name}_embeddings.weight": weights[f"embeddings.{name}_embeddings.weight"]
        for name in _EMBEDDINGS
    }
    products = (weights[name].T for name in sorted(weights) if "MatMul" in name)
    for layer in range(config.num_hidden_layers):
        for name in _PRODUCTS:
            state[f"encoder.layer.{layer}.{name}.weight"] = next(products)
    model = BertModel(config, add_pooling_layer=False)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.endswith(("bias", "LayerNorm.weight")) for name in missing)  # 0 and 1, as made
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "onnx_runtime"):
        shutil.copyfile(source / name, folder / name)


def _dequantize(constants: dict[str, np.ndarray], name: str) -> np.ndarray:
    steps = constants[f"{name}_quantized"].astype(np.float32) - constants[f"{name}_zero_point"]
    values: np.ndarray = steps * constants[f"{name}_scale"]
    return values
