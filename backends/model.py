"""The interface between the service and a model: the types of a tower's inputs and outputs.

    content -> split -> prepare -> ModelInput ... collate -> Network -> rows ... join -> result

A model has a tower for each modality. Texts, images and pairs use the same types: the vector of a
pair (query and document) has a single number, its logit. This module imports no model library, so
the service can import it where none is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

Modality: TypeAlias = Literal["text", "image", "pair"]
Vector: TypeAlias = npt.NDArray[np.float32]  # [dimensions]
Rows: TypeAlias = npt.NDArray[np.float32]  # [n, dimensions], or [n, poolings, dimensions]
Arrays: TypeAlias = tuple[npt.NDArray[Any], ...]
TextMode: TypeAlias = Literal["trained", "reference"]
Activation: TypeAlias = Literal["identity", "sigmoid"]  # turns a logit into a score
Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]
Weights: TypeAlias = Literal["float32", "int8"]  # stored weight types, the most exact first
Runtime: TypeAlias = Literal["openvino", "torch"]
RuntimeName: TypeAlias = Runtime | Literal["numpy"]  # lookup models need no runtime


class Pair(NamedTuple):
    """A query and a document; the score is how well the document answers the query."""

    query: str
    document: str


@dataclass(frozen=True, slots=True)
class EncodeParams:
    """A request's parameters of preprocessing and pooling, which change the vector.

    An input processor reduces them to the parameters that its family uses; the result is part of
    the cache key. An empty string means that the parameter is not set.

    Attributes:
        pooling: pooling of token vectors, such as `masked_mean` or `cls`.
        task: use of the vector, such as `query` or `passage`.
    """

    pooling: str = ""
    task: str = ""

    @property
    def key(self) -> str:
        """A string for the cache key; equal parameters have equal strings."""
        return f"{self.pooling}\n{self.task}" if self.pooling or self.task else ""


class EmbeddingResult(NamedTuple):
    """The vector of an input, or of a chunk.

    Attributes:
        vector: [dimensions] float32; for a pair [1], its logit (see `backends/scores.py`).
        tokens: number of tokens that the network read, including special tokens; 0 for an image.
        truncated: whether the input was longer than the model's maximum.
    """

    vector: Vector
    tokens: int = 0
    truncated: bool = False


class Chunks(NamedTuple):
    """The chunks of one input.

    Attributes:
        items: one or more chunks; the network computes a vector for each chunk.
        divisor: the input's vector is the sum of the chunks' vectors, divided by this number.
    """

    items: Sequence[Any]
    divisor: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """A preprocessed chunk, ready for a batch.

    Attributes:
        arrays: arrays without a batch axis, such as ids [length] int64 or pixels [3, H, W] uint8.
        bucket: a value such as the padded length; only items of equal buckets share a batch. An
            item with bucket None has a batch of its own.
        cost: the item's cost in a batch and in the queue, in the tower's unit: padded tokens,
            images or tiles.
        tokens: as in `EmbeddingResult`.
        truncated: as in `EmbeddingResult`.
        pooling_index: index of the item's pooling among the network's poolings.
    """

    arrays: Arrays
    bucket: Hashable
    cost: int
    tokens: int = 0
    truncated: bool = False
    pooling_index: int = 0

    @property
    def nbytes(self) -> int:
        """Size of the item's arrays in bytes."""
        return sum(array.nbytes for array in self.arrays)


class InputProcessor(Protocol):
    """Turns inputs of one modality into arrays, and the network's rows into results.

    The content of a text is a string, the content of a pair is a `Pair`. For an image, `estimate`
    and `split` take the bytes of the file, and `prepare` takes the decoded image; the caller
    decodes the image and applies the limits. Methods are thread-safe.
    """

    @property
    def reading(self) -> str:
        """The operator's settings that change vectors, as a string; empty for no settings."""
        ...

    @property
    def is_chunked(self) -> bool:
        """Whether an input may have several chunks."""
        ...

    def resolve(self, params: EncodeParams) -> EncodeParams:
        """Reduce parameters to those that the family uses.

        Raises:
            InvalidInputError: the family does not support the value of a parameter.
        """
        ...

    def estimate(self, content: Any) -> int:
        """Estimate the cost of an input (see `ModelInput`), without preprocessing it."""
        ...

    def split(self, content: Any, params: EncodeParams) -> Chunks:
        """Split an input into chunks; most inputs are a single chunk."""
        ...

    def prepare(self, part: Any, params: EncodeParams) -> ModelInput:
        """Preprocess a chunk for a batch.

        Raises:
            InvalidInputError: the model cannot read the chunk.
        """
        ...

    def collate(self, items: Sequence[ModelInput]) -> Arrays:
        """Stack the arrays of items of one bucket to [n, ...]; concatenate ragged arrays."""
        ...

    def join(self, parts: Sequence[EmbeddingResult], divisor: int) -> EmbeddingResult:
        """Combine the results of an input's chunks into the result of the input."""
        ...

    def limit_ids(self, rows: int) -> None:
        """Reject inputs with token ids that have no embedding, from now on.

        Args:
            rows: number of token embeddings; ids from this number on are rejected.

        Raises:
            ValueError: all inputs would be rejected.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids of the model's vocabulary.

        Raises:
            InvalidInputError: an id is not in the vocabulary, or there is no vocabulary.
        """
        ...


# A function: collated arrays -> a row for each item, [n, dim] or [n, poolings, dim] float32. Only
# one thread calls it at a time. It is batch-invariant: the row of an item does not depend on the
# other items of the batch, up to an error of 1e-5.
Network: TypeAlias = Callable[..., Rows]


@runtime_checkable
class NetworkInStages(Protocol):
    """A network in stages, which can compute several batches stage by stage. See `stages.py`."""

    def __call__(self, *arrays: npt.NDArray[Any]) -> Rows:
        """Compute a batch, like a `Network`."""
        ...

    def passes(self, batches: Sequence[Arrays]) -> list[Rows]:
        """Compute several batches; return the rows of each."""
        ...


@dataclass(frozen=True)
class Tower:
    """One modality of one model.

    Attributes:
        processor: the input processor.
        network: function that computes batches.
        is_lookup: whether the network only looks rows up in a table. This takes less time than the
            queue, a thread or the cache, so the service calls the network directly.
    """

    processor: InputProcessor
    network: Network | NetworkInStages
    is_lookup: bool = False


@dataclass(frozen=True)
class ModelOptions:
    """Options for loading a model.

    Attributes:
        device: a torch device, such as `cpu` or `cuda:0`.
        text_mode: `trained` preprocesses texts as in the model's training, `reference` as in the
            reference container.
        trust_remote_code: whether the model folder may run Python code of its own.
        precision: requested precision; float32 is used if the device lacks instructions for it.
            None for the precision of the folder's weights, float32 if there are several.
        runtime: requested runtime; OpenVINO runs on CPUs only.
        cache_dir: folder of converted models.
        cores: maximum number of cores; None for all.
        direct_tokenize: whether texts are embedded in one piece, and not split into sentences.
        prefixes: whether the name of the task is written in front of a text; a value in the model
            folder takes precedence.
        max_num_patches: maximum number of patches of an image (NaFlex); None for the checkpoint's
            maximum.
        max_image_tiles: maximum number of tiles of an image (ModernVBERT); None for the
            checkpoint's maximum.
        max_read_pixels: maximum number of pixels of a scaled image (Qwen3-VL); None for the
            checkpoint's maximum.
        in_stages: whether a model in stages has only one stage in memory at a time. This is used
            for conversions and checks, not for serving.
        converts: whether a model that is not converted is converted when it is loaded.
    """

    device: str = "cpu"
    text_mode: TextMode = "trained"
    trust_remote_code: bool = False
    precision: Precision | None = None
    runtime: Runtime = "torch"
    cache_dir: Path | None = None
    cores: int | None = None
    direct_tokenize: bool = False
    prefixes: bool = False
    max_num_patches: int | None = None
    max_image_tiles: int | None = None
    max_read_pixels: int | None = None
    in_stages: bool = False
    converts: bool = True


@dataclass(frozen=True)
class ModelInfo:
    """Facts about the loaded model, for the log and `GET /meta`.

    Attributes:
        family: the model family, such as `SigLIP 2`.
        dimensions: length of every vector.
        parameters: number of weights.
        runtime: the runtime in use.
        device: the device that computes.
        precision: the precision in use.
        text_mode: as in `ModelOptions`.
        image_px: shorter side of preprocessed images, in pixels; 0 if it varies or there is no
            image tower.
        is_demo: whether the model is this project's demo model.
        config: the body of the reference's `GET /meta` for the family.
        vector_space: digest of everything that changes vectors; vectors can be compared if their
            spaces are equal. Empty for a reranker.
        score_space: the same for scores; empty for an embedding model.
        cuts: whether vectors may be truncated to their first dimensions and normalized again.
        refused: a sentence that says why the requested precision is not used; empty if it is used.
        name: the operator's name of the model, or its name on the hub.
        revision: the downloaded commit; empty if unknown.
        activations: text mode -> activation from logit to score; empty for an embedding model.
    """

    family: str
    dimensions: int
    parameters: int
    runtime: RuntimeName
    device: str
    precision: Precision
    text_mode: TextMode
    image_px: int
    is_demo: bool
    config: Mapping[str, object]
    vector_space: str = ""
    score_space: str = ""
    cuts: bool = False
    refused: str = ""
    name: str = ""
    revision: str = ""
    activations: Mapping[TextMode, Activation] = field(default_factory=dict)

    @property
    def scores(self) -> bool:
        """Whether the model is a reranker, which scores pairs instead of embedding inputs."""
        return bool(self.activations)

    @property
    def activation(self) -> Activation:
        """The activation from logit to score in the model's text mode."""
        return self.activations.get(self.text_mode, "identity")


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one GPU, or the sum of several GPUs, in bytes.

    Attributes:
        allocated: memory that tensors of this process use.
        reserved: memory that torch has reserved for tensors of this process.
        total: total memory of the GPUs.
    """

    allocated: int
    reserved: int
    total: int

    def __add__(self, other: GpuMemory) -> GpuMemory:
        """Return the sum of the memory of this GPU and of others."""
        return GpuMemory(
            self.allocated + other.allocated,
            self.reserved + other.reserved,
            self.total + other.total,
        )


def no_gpu() -> None:
    """Return None, the `GpuMemory` of a model without a GPU."""


@dataclass(frozen=True)
class Model:
    """A loaded model: it has one or two towers; a reranker has a tower for pairs only.

    Attributes:
        info: facts about the model.
        towers: the towers by modality.
        gpu_memory: function that returns the current memory of the model's GPU; None without a
            GPU.
    """

    info: ModelInfo
    towers: Mapping[Modality, Tower]
    gpu_memory: Callable[[], GpuMemory | None] = field(default=no_gpu)
