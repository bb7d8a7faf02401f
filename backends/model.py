"""The seam between the service and a model: what a tower takes and gives, and nothing else.

    content -> split -> prepare -> ModelInput ... collate -> Network -> rows ... join -> result

A model has a tower for each modality that it reads; texts, images and pairs have the same shape
here: of a pair, a query and a document, the vector is a single number. It imports no model library,
so that everything above can name these types for free.
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
Activation: TypeAlias = Literal["identity", "sigmoid"]  # what makes a score of a logit
Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]
Weights: TypeAlias = Literal["float32", "int8"]  # of a converted model, from the best on
Runtime: TypeAlias = Literal["openvino", "torch"]
RuntimeName: TypeAlias = Runtime | Literal["numpy"]  # a table needs no runtime


class Pair(NamedTuple):
    """What a tower of pairs reads at once: how well does the document answer the query?"""

    query: str
    document: str


@dataclass(frozen=True, slots=True)
class EncodeParams:
    """What a request says of how an input shall be read; it shapes the vector.

    An input processor resolves it to what its family reads, and that is part of what a vector is
    remembered by. Empty: not said.

    Attributes:
        pooling: how the vectors of tokens become one, such as `masked_mean` or `cls`.
        task: what the vector is for, such as `query` or `passage`.
    """

    pooling: str = ""
    task: str = ""

    @property
    def key(self) -> str:
        """Name it; shapings of equal names are equal."""
        return f"{self.pooling}\n{self.task}" if self.pooling or self.task else ""


class EmbeddingResult(NamedTuple):
    """The vector of an input, or of a part of one.

    Attributes:
        vector: [dimensions] float32; of a pair [1], its logit (see `backends/scores.py`).
        tokens: that the network read, special ones included; 0 for an image.
        truncated: whether the input was longer than the model reads.
    """

    vector: Vector
    tokens: int = 0
    truncated: bool = False


class Chunks(NamedTuple):
    """The parts of one input.

    Attributes:
        items: one or more parts; the network computes each by itself.
        divisor: the sum of the parts' vectors is divided by this number.
    """

    items: Sequence[Any]
    divisor: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class ModelInput:
    """One item, ready for a batch.

    Attributes:
        arrays: without the batch's axis, such as ids [length] int64 or pixels [3, H, W] uint8.
        bucket: only items of equal buckets share a pass, such as the padded length; an item whose
            bucket is None shares it with nobody.
        cost: what it weighs in a batch and in the queue, in the tower's own unit: padded tokens,
            images, tiles.
        tokens: as in `EmbeddingResult`.
        truncated: as in `EmbeddingResult`.
        pooling_index: which of the network's poolings is its own.
    """

    arrays: Arrays
    bucket: Hashable
    cost: int
    tokens: int = 0
    truncated: bool = False
    pooling_index: int = 0

    @property
    def nbytes(self) -> int:
        """The memory that it takes while it waits."""
        return sum(array.nbytes for array in self.arrays)


class InputProcessor(Protocol):
    """How the inputs of one modality become arrays, and rows become answers.

    A text's content is its string, a pair's a `Pair`. An image's is its file (bytes) to `estimate`
    and `split`, and the decoded image to `prepare`: who calls it opens the file, within the
    limits. All methods may be called by many threads at a time.
    """

    @property
    def reading(self) -> str:
        """What an operator said of how inputs shall be read, where it shapes their vectors."""
        ...

    @property
    def is_chunked(self) -> bool:
        """Whether an input may have several parts."""
        ...

    def resolve(self, params: EncodeParams) -> EncodeParams:
        """Return what the family reads of a shaping.

        Raises:
            InvalidInputError: it reads it, and knows no such value.
        """
        ...

    def estimate(self, content: Any) -> int:
        """Return about what an input costs, without preparing it."""
        ...

    def split(self, content: Any, params: EncodeParams) -> Chunks:
        """Return the parts that are computed; most inputs are one part, themselves."""
        ...

    def prepare(self, part: Any, params: EncodeParams) -> ModelInput:
        """Make a part ready for a batch.

        Raises:
            InvalidInputError: the model cannot read it.
        """
        ...

    def collate(self, items: Sequence[ModelInput]) -> Arrays:
        """Put items of one bucket together: arrays of [n, ...], or what is ragged, concatenated."""
        ...

    def join(self, parts: Sequence[EmbeddingResult], divisor: int) -> EmbeddingResult:
        """Make one answer of the parts'."""
        ...

    def limit_ids(self, rows: int) -> None:
        """Read nothing from now on that holds an id which the network has no embedding for.

        Args:
            rows: how many ids it has one for.

        Raises:
            ValueError: there would be nothing to read.
        """
        ...

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text that ids of the model's own vocabulary stand for.

        Raises:
            InvalidInputError: one is none of it, or the model has no vocabulary.
        """
        ...


# Collated arrays in, a row for each item out: [n, dim] or [n, poolings, dim] float32. One thread at
# a time calls it. It is batch-invariant: an item's row does not depend on its mates (to 1e-5).
Network: TypeAlias = Callable[..., Rows]


@runtime_checkable
class NetworkInStages(Protocol):
    """A network that computes many batches best together; see `stages.py`."""

    def __call__(self, *arrays: npt.NDArray[Any]) -> Rows:
        """Compute a batch, as a `Network`."""
        ...

    def passes(self, batches: Sequence[Arrays]) -> list[Rows]:
        """Compute batches, the rows of each as the network itself gives them."""
        ...


@dataclass(frozen=True)
class Tower:
    """One modality of one model.

    Attributes:
        processor: of its inputs.
        network: computes batches.
        is_lookup: whether the network only looks rows up: quicker than a queue, a thread or a
            memory of vectors, so it is computed in place.
    """

    processor: InputProcessor
    network: Network | NetworkInStages
    is_lookup: bool = False


@dataclass(frozen=True)
class ModelOptions:
    """How a model is to be loaded.

    Attributes:
        device: a torch device, such as `cpu` or `cuda:0`.
        text_mode: `trained` gives texts as the model learnt them, `reference` as the reference
            container makes them.
        trust_remote_code: whether the model folder may run Python code of its own.
        precision: to compute in; float32 is taken where the device would imitate it. None for
            what the folder holds, float32 first.
        runtime: what computes; OpenVINO runs on the CPU only.
        cache_dir: where models are kept that were converted for the runtime.
        cores: how many the computation may use; None for all.
        direct_tokenize: whether texts are read in one piece where they would be split.
        prefixes: whether the task is written in front of a text, where the model does not say so.
        max_num_patches: most patches of an image that keeps its shape; None for the checkpoint's.
        max_image_tiles: most tiles of an image that is read in tiles; None for the checkpoint's.
        max_read_pixels: most pixels of an image that is read near its own size; None for as many
            as the model has learnt from.
        in_stages: whether a model in stages has the weights of one in memory at a time, as what
            computes everything once wants it, and what serves does not.
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
    """What is loaded, for the log and for `GET /meta`.

    Attributes:
        family: the model family, such as `SigLIP 2`.
        dimensions: length of every vector.
        parameters: number of weights in memory.
        runtime: what computes.
        device: where they are.
        precision: the type they are computed in.
        text_mode: as in `ModelOptions`.
        image_px: shorter side of the image that it looks at; 0 where it varies, or there is none.
        is_demo: whether it is the small model that this project ships to be tried.
        config: the body that the reference's `GET /meta` has for the family.
        vector_space: a digest of all that shapes a vector; vectors of equal ones can be compared.
            Empty for a model that scores.
        score_space: the same of scores; empty for a model that embeds.
        cuts: whether a vector may be cut to its first dimensions (and made length 1 again).
        refused: why the precision that was asked for is not used, a sentence; empty where it is.
        name: what the operator calls it, or what it is called where it was fetched from.
        revision: the commit that was fetched; empty where it is not known.
        activations: what makes a score of a logit, in each text mode that the model can be served
            in; empty for a model that embeds.
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
        """Whether it is a reranker: it scores pairs, and embeds nothing."""
        return bool(self.activations)

    @property
    def activation(self) -> Activation:
        """What makes a score of a logit in the text mode that the model is served in."""
        return self.activations.get(self.text_mode, "identity")


@dataclass(frozen=True)
class GpuMemory:
    """Memory of a GPU, or of several together, in bytes.

    Attributes:
        allocated: that tensors of this process take.
        reserved: that this process keeps for tensors.
        total: that the GPU has.
    """

    allocated: int
    reserved: int
    total: int

    def __add__(self, other: GpuMemory) -> GpuMemory:
        """Add another GPU's."""
        return GpuMemory(
            self.allocated + other.allocated,
            self.reserved + other.reserved,
            self.total + other.total,
        )


def no_gpu() -> None:
    """Tell that there is no memory of a GPU."""


@dataclass(frozen=True)
class Model:
    """A loaded model: one tower, or two; a tower of pairs is the only one.

    Attributes:
        info: what is loaded.
        towers: one for each modality that it reads.
        gpu_memory: asks for the memory of its device now; None without a GPU.
    """

    info: ModelInfo
    towers: Mapping[Modality, Tower]
    gpu_memory: Callable[[], GpuMemory | None] = field(default=no_gpu)
