"""Token ids turned back into texts, by the tokenizers of both runtimes."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.model import EncodeParams, InputProcessor, Model, Runtime
from backends.preprocessing.conversation import ConversationProcessor
from errors import InvalidInputError
from tests.golden_cases import EVERY_RUNTIME, LAYOUTS, golden_model
from tests.golden_texts import NETWORKS, text_model

EVERY_MODEL = pytest.mark.parametrize("name", [*LAYOUTS, *NETWORKS, "model2vec", "onnx"])
TEXT = "a photo of a cat and two cats"


def make_model(name: str, runtime: Runtime) -> Model:
    return golden_model(name, "trained", runtime) if name in LAYOUTS else text_model(name, runtime)


def texts_of(name: str, runtime: Runtime) -> InputProcessor:
    return make_model(name, runtime).towers["text"].processor


def ids_of(processor: InputProcessor, text: str) -> list[int]:
    if isinstance(processor, ConversationProcessor):  # without what it puts around a text
        return processor._tokenize(text).ids
    prepared = processor.prepare(text, EncodeParams())
    ids: list[int] = prepared.arrays[0].flatten().tolist()
    return ids[: prepared.tokens]


@EVERY_RUNTIME
@EVERY_MODEL
def test_the_ids_of_a_text_are_that_text(name: str, runtime: Runtime) -> None:
    processor = texts_of(name, runtime)
    ids = ids_of(processor, TEXT)

    text = processor.decode(ids)

    assert text.split() == TEXT.split()
    assert ids_of(processor, text) == ids


@EVERY_MODEL
def test_both_runtimes_make_the_same_text_of_ids(name: str) -> None:
    one, other = (texts_of(name, runtime) for runtime in ("openvino", "torch"))

    assert one.decode(ids_of(one, TEXT)) == other.decode(ids_of(other, TEXT))


@EVERY_RUNTIME
@pytest.mark.parametrize("name", ["openai", "openclip", "sentence_transformers", "roberta"])
def test_tokens_that_are_bytes_are_letters_again(name: str, runtime: Runtime) -> None:
    processor = texts_of(name, runtime)

    assert processor.decode(ids_of(processor, "zwölf émigrés 😀")) == "zwölf émigrés 😀"


@EVERY_RUNTIME
@EVERY_MODEL
def test_what_is_no_id_is_reported(name: str, runtime: Runtime) -> None:
    processor = texts_of(name, runtime)

    for strange in (-1, 500_000, 2**32, 2**70):
        with pytest.raises(InvalidInputError, match=f"^{strange} is the id of no token"):
            processor.decode([5, strange])


@pytest.mark.parametrize("name", ["openai", "openclip", "sentence_transformers", "siglip1"])
def test_many_threads_read_ids_beside_texts(name: str) -> None:
    """Tokenizers of transformers change themselves at every text."""
    processor = texts_of(name, "torch")
    texts = ["a photo of a cat " * (number % 20 + 1) for number in range(60)]
    expected = [processor.decode(ids_of(processor, text)) for text in texts]

    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda text: processor.decode(ids_of(processor, text)), texts)

    assert list(found) == expected


def test_images_have_no_vocabulary() -> None:
    images = golden_model("openai", "trained").towers["image"].processor

    with pytest.raises(InvalidInputError, match="no vocabulary"):
        images.decode([1])
