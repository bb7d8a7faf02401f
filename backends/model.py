"""The seam between service and model: the types of a tower's inputs and outputs.

    content -> split -> prepare -> ModelInput ... collate -> Network -> rows ... join -> result

A model has a tower for each modality. Texts, images and pairs have the same types here: the vector
of a pair (query and document) is a single number. The module imports no model library, so that the
service can import it without one.
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
Weights: TypeAlias = Literal["float32", "int8"]  # of a converted model, the most exact first
Runtime: TypeAlias = Literal["openvino", "torch"]
RuntimeName: TypeAlias = Runtime | Literal["numpy"]  # lookup models need no runtime


class Pair(NamedTuple):
    """A query and a document; the score is how well the document answers the query."""

    query: str
    document: str


@dataclass(frozen=True, slots=True)
class EncodeParams:
    """A request's parameters of preprocessing and pooling; they change the vector.

    An input processor resolves them to the parameters that its family uses; the result is part of
    the cache key. Empty: not set.

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
        tokens: number of tokens that the network read, special tokens included; 0 for an image.
        truncated: whether the input was longer than the model's maximum.
    """

    vector: Vector
    tokens: int = 0
    truncated: bool = False


class Chunks(NamedTuple):
    """The chunks of one input.

    Attributes:
        items: one or more chunks; the network computes each by itself.
        divisor: the sum of the chunks' vectors is divided by this number.
    """

    items: Sequence[Any]
    divisor: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """A preprocessed chunk, ready for a batch.

    Attributes:
        arrays: arrays without a batch axis, such as ids [length] int64 or pixels [3, H, W] uint8.
        bucket: only items of equal buckets, such as a padded length, share a batch; an item with
            bucket None has a batch of its own.
        cost: weight in a batch and in the queue, in the tower's unit: padded tokens, images, tiles.
        tokens: as in `EmbeddingResult`.
        truncated: as in `EmbeddingResult`.
        pooling_index: index of its pooling among the network's poolings.
    """

    arrays: Arrays
    bucket: Hashable
    cost: int
    tokens: int = 0
    truncated: bool = False
    pooling_index: int = 0

    @property
    def nbytes(self) -> int:
        """The bytes of its arrays."""
        return sum(array.nbytes for array in self.arrays)


class InputProcessor(Protocol):
    """Turns inputs of one modality into arrays, and rows into results.

    The content of a text is its string, of a pair a `Pair`. For an image, `estimate` and `split`
    take the bytes of its file, and `prepare` takes the decoded image: the caller decodes it, within
    the limits. Methods are thread-safe.
    """

    @property
    def reading(self) -> str:
        """The operator's settings that change vectors, as a string; empty if there are none."""
        ...

    @property
    def is_chunked(self) -> bool:
        """Whether an input may have several chunks."""
        ...

    def resolve(self, params: EncodeParams) -> EncodeParams:
        """Reduce parameters to those that the family uses.

        Raises:
            InvalidInputError: the family does not know a value.
        """
        ...

    def estimate(self, content: Any) -> int:
        """Estimate the cost of an input, without preprocessing it."""
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
        """Stack items of one bucket to arrays [n, ...]; concatenate ragged arrays."""
        ...

    def join(self, parts: Sequence[EmbeddingResult], divisor: int) -> EmbeddingResult:
        """Combine the results of the chunks into the result of their input."""
        ...

    def limit_ids(self, rows: int) -> None:
        """Refuse inputs with token ids that have no embedding, from now on.

        Args:
            rows: number of token embeddings.

        Raises:
            ValueError: every input would be refused.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids of the model's vocabulary.

        Raises:
            InvalidInputError: an id is not in the vocabulary, or there is no vocabulary.
        """
        ...


# Collated arrays -> a row for each item, [n, dim] or [n, poolings, dim] float32. Called by one
# thread at a time. Batch-invariant: an item's row does not depend on the rest of the batch (to
# 1e-5).
Network: TypeAlias = Callable[..., Rows]


@runtime_checkable
class NetworkInStages(Protocol):
    """A network in stages; it computes several batches stage by stage. See `stages.py`."""

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
        is_lookup: whether the network only looks rows up. That is faster than a queue, a thread or
            a cache, so it is computed directly.
    """

    processor: InputProcessor
    network: Network | NetworkInStages
    is_lookup: bool = False


@dataclass(frozen=True)
class ModelOptions:
    """Options of loading a model.

    Attributes:
        device: a torch device, such as `cpu` or `cuda:0`.
        text_mode: `trained` preprocesses texts as in the model's training, `reference` as the
            reference container.
        trust_remote_code: whether the model folder may run Python code of its own.
        precision: requested precision; float32 is used if the device lacks instructions for it.
            None: the precision of the folder, float32 preferred.
        runtime: requested runtime; OpenVINO runs on CPUs only.
        cache_dir: folder of converted models.
        cores: maximum number of cores; None for all.
        direct_tokenize: whether texts are embedded in one piece, and not split into sentences.
        prefixes: whether the task is written in front of a text, unless the model folder decides.
        max_num_patches: maximum patches of an image (NaFlex); None for the checkpoint's.
        max_image_tiles: maximum tiles of an image (ModernVBERT); None for the checkpoint's.
        max_read_pixels: maximum pixels of a scaled image (Qwen3-VL); None for the checkpoint's.
        in_stages: whether only one stage of a model in stages is in memory at a time: for
            conversions and checks, not for serving.
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


@dataclass(frozen=True)
class ModelInfo:
    """Facts about the loaded model, for the log and `GET /meta`.

    Attributes:
        family: the model family, such as `SigLIP 2`.
        dimensions: length of every vector.
        parameters: number of weights.
        runtime: the runtime in use.
        device: the device of the weights.
        precision: the precision in use.
        text_mode: as in `ModelOptions`.
        image_px: shorter side of preprocessed images; 0 if it varies or there is no image tower.
        is_demo: whether it is this project's demo model.
        config: the body of the reference's `GET /meta` for the family.
        vector_space: digest of all that changes vectors; vectors of equal spaces can be compared.
            Empty for a reranker.
        score_space: the same for scores; empty for an embedding model.
        cuts: whether vectors may be truncated to their first dimensions and normalized again.
        refused: why the requested precision is not used, a sentence; empty if it is used.
        name: the operator's name of the model, or its name on the hub.
        revision: the downloaded commit; empty if unknown.
        activations: the activation from logit to score, by text mode; empty for an embedding model.
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
        """Whether it is a reranker, which scores pairs and does not embed."""
        return bool(self.activations)

    @property
    def activation(self) -> Activation:
        """The activation from logit to score in the model's text mode."""
        return self.activations.get(self.text_mode, "identity")


@dataclass(frozen=True)
class GpuMemory:
    """Memory of one or several GPUs, in bytes.

    Attributes:
        allocated: memory of this process's tensors.
        reserved: memory that torch keeps for tensors of this process.
        total: memory of the GPU.
    """

    allocated: int
    reserved: int
    total: int

    def __add__(self, other: GpuMemory) -> GpuMemory:
        """Add the memory of another GPU."""
        return GpuMemory(
            self.allocated + other.allocated,
            self.reserved + other.reserved,
            self.total + other.total,
        )


def no_gpu() -> None:
    """Return None: there is no GPU."""


@dataclass(frozen=True)
class Model:
    """A loaded model: one or two towers; a reranker has a tower of pairs only.

    Attributes:
        info: facts about the model.
        towers: the towers by modality.
        gpu_memory: returns the present memory of its device; None without a GPU.
    """

    info: ModelInfo
    towers: Mapping[Modality, Tower]
    gpu_memory: Callable[[], GpuMemory | None] = field(default=no_gpu)
