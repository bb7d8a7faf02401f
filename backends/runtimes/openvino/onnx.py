"""Loads the reference's ONNX layout: an int8 network, which OpenVINO runs unchanged.

Source of the vectors: the reference's text container with ONNX Runtime, which embeds a text in one
piece, with mean pooling and normalization. The network quantizes activations by the range of the
whole batch, so each text has a batch of its own, without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backends.folder import ModelFolder, loaded
from backends.json_files import read_json
from backends.model import EncodeParams, Model, ModelInfo, ModelInput, ModelOptions, Rows, Tower
from backends.preprocessing.tokens import Padding, TextRecipe, Tokenizer, TokenProcessor
from backends.preprocessing.vocabulary import VOCABULARY, read_vocabulary
from backends.runtimes.openvino.core import read_network
from backends.runtimes.openvino.network import OpenVinoNetwork
from backends.text_folder import ONNX, TextFolder, max_tokens, reference_meta

_IDS, _MASK = "input_ids", "attention_mask"


def load(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the ONNX model in `model/`, which computes in the precision of its file.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
    """
    return loaded(folder, "ONNX", lambda: _load(folder, options))


def _load(folder: ModelFolder, options: ModelOptions) -> Model:
    path = TextFolder.open(folder).path
    network = PooledNetwork(path / ONNX, replace(options, precision="float32"))
    config = read_json(path / "config.json", dict)
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
        config=reference_meta(config),
    )
    tokenizer = read_json(path / "tokenizer_config.json", dict)
    longest = max_tokens(tokenizer.get("model_max_length"), config.get("max_position_embeddings"))
    padding = Padding("nothing", int(longest), masked=True)
    vocabulary = read_vocabulary(path / VOCABULARY)
    texts = LoneProcessor(Tokenizer(vocabulary, TextRecipe("nothing", padding)), padding)
    if network.rows is not None:
        texts.limit_ids(network.rows)
    return Model(info, {"text": Tower(texts, network)})


class LoneProcessor(TokenProcessor):
    """Tokenizes texts; each has a batch of its own, as the network quantizes by the whole batch."""

    def prepare(self, text: str, params: EncodeParams) -> ModelInput:
        """Tokenize a text: return ids and a mask of ones, each [length] int64."""
        return replace(super().prepare(text, params), bucket=None)


class PooledNetwork:
    """Mean-pools the token states of one text, and normalizes the vector.

    Args:
        path: path of the ONNX file.
        options: the number of cores.

    Attributes:
        parameters: number of weights.
        rows: number of token embeddings; None if unknown.
    """

    def __init__(self, path: Path, options: ModelOptions) -> None:
        network = read_network(path)
        self._names: Sequence[str] = [port.any_name for port in network.inputs]
        weights = (op for op in network.get_ops() if op.get_type_name() == "Constant")
        self.parameters = sum(int(np.prod(tuple(op.output(0).shape))) for op in weights)
        self._network = OpenVinoNetwork(path, options)
        self.rows = self._network.rows

    def __call__(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Rows:
        """Compute a text: ids and mask [1, length] int64 -> vector [1, dim] float32."""
        given = {_IDS: ids, _MASK: mask}
        # Other inputs, such as token_type_ids, are 0 for a single text.
        arrays = [given[name] if name in given else np.zeros_like(ids) for name in self._names]
        means = self._network(*arrays).mean(axis=1)
        rows: Rows = means / np.linalg.norm(means, axis=1, keepdims=True)
        return rows
