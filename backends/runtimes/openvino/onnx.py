"""The text container's ONNX layout: a network in 8 bits, which OpenVINO reads as it lies there.

Source of the vectors: the reference's text container, with ONNX Runtime. It reads a text in one
piece, and takes the mean of its tokens' states, at length 1. The scales of its activations are
those of a whole pass, so a text has a pass of its own, and no padding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backends.folder import ModelFolder, loaded
from backends.model import EncodeParams, Model, ModelInfo, ModelInput, ModelOptions, Rows, Tower
from backends.preprocessing.tokens import (
    VOCABULARY,
    Padding,
    TextRecipe,
    Tokenizer,
    TokenProcessor,
    read_vocabulary,
)
from backends.runtimes.openvino.core import read_network
from backends.runtimes.openvino.network import OpenVinoNetwork
from backends.text_folder import ONNX, TextFolder, meta_of, most_tokens

_IDS, _MASK = "input_ids", "attention_mask"


def load(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load `model/`; whatever precision is asked for, it computes in that of its file.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
    """
    return loaded(folder, "ONNX", lambda: _load(folder, options))


def _load(folder: ModelFolder, options: ModelOptions) -> Model:
    path = TextFolder.of(folder).path
    network = PooledNetwork(path / ONNX, replace(options, precision="float32"))
    config = json.loads((path / "config.json").read_text("utf-8"))
    info = ModelInfo(
        family="ONNX",
        dimensions=config["hidden_size"],
        parameters=network.parameters,
        runtime="openvino",
        device="cpu",
        precision="int8",
        text_mode=options.text_mode,
        image_px=0,
        is_demo=folder.is_demo,
        config=meta_of(config),
    )
    tokenizer = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
    longest = most_tokens(tokenizer.get("model_max_length"), config.get("max_position_embeddings"))
    padding = Padding("nothing", int(longest), masked=True)
    vocabulary = read_vocabulary(path / VOCABULARY)
    texts = LoneProcessor(Tokenizer(vocabulary, TextRecipe("nothing", padding)), padding)
    if network.rows is not None:
        texts.limit_ids(network.rows)
    return Model(info, {"text": Tower(texts, network)})


class LoneProcessor(TokenProcessor):
    """Tokenizes; no text shares a pass with another."""

    def prepare(self, text: str, params: EncodeParams) -> ModelInput:
        """Return ids and a mask of ones, [length] int64."""
        return replace(super().prepare(text, params), bucket=None)


class PooledNetwork:
    """Mean-pools the token states of one text, and normalizes the vector.

    Args:
        path: of the ONNX file.
        options: the number of cores.

    Attributes:
        parameters: number of weights.
        rows: the number of token embeddings; None where that is not known.
    """

    def __init__(self, path: Path, options: ModelOptions) -> None:
        network = read_network(path)
        self._names: Sequence[str] = [port.any_name for port in network.inputs]
        weights = (op for op in network.get_ops() if op.get_type_name() == "Constant")
        self.parameters = sum(int(np.prod(tuple(op.output(0).shape))) for op in weights)
        self._network = OpenVinoNetwork(path, options)
        self.rows = self._network.rows

    def __call__(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Rows:
        """Compute: both [1, length] -> [1, dim] float32."""
        given = {_IDS: ids, _MASK: mask}
        # Whatever else it takes, such as token_type_ids, is 0 in a lone text.
        arrays = [given[name] if name in given else np.zeros_like(ids) for name in self._names]
        means = self._network(*arrays).mean(axis=1)
        rows: Rows = means / np.linalg.norm(means, axis=1, keepdims=True)
        return rows
