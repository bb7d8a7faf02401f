"""Token ids turned back into texts, by the tokenizers of both runtimes."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.inputs.conversation import ConversationPreparation
from backends.model import Model, Preparation, Runtime, Shaping
from errors import InvalidInputError
from tests.golden_cases import EVERY_RUNTIME, LAYOUTS, golden_model
from tests.golden_texts import NETWORKS, text_model

EVERY_MODEL = pytest.mark.parametrize("name", [*LAYOUTS, *NETWORKS, "model2vec", "onnx"])
TEXT = "a photo of a cat and two cats"


def model_of(name: str, runtime: Runtime) -> Model:
    return golden_model(name, "trained", runtime) if name in LAYOUTS else text_model(name, runtime)


def texts_of(name: str, runtime: Runtime) -> Preparation:
    return model_of(name, runtime).towers["text"].preparation


def ids_of(preparation: Preparation, text: str) -> list[int]:
    if isinstance(preparation, ConversationPreparation):  # without what it puts around a text
        return preparation._tokenize(text).ids
    prepared = preparation.prepare(text, Shaping())
    ids: list[int] = prepared.arrays[0].flatten().tolist()
    return ids[: prepared.tokens]


@EVERY_RUNTIME
@EVERY_MODEL
def test_the_ids_of_a_text_are_that_text(name: str, runtime: Runtime) -> None:
    preparation = texts_of(name, runtime)
    ids = ids_of(preparation, TEXT)

    text = preparation.text_of(ids)

    assert text.split() == TEXT.split()
    assert ids_of(preparation, text) == ids


@EVERY_MODEL
def test_both_runtimes_make_the_same_text_of_ids(name: str) -> None:
    one, other = (texts_of(name, runtime) for runtime in ("openvino", "torch"))

    assert one.text_of(ids_of(one, TEXT)) == other.text_of(ids_of(other, TEXT))


@EVERY_RUNTIME
@pytest.mark.parametrize("name", ["openai", "openclip", "sentence_transformers", "roberta"])
def test_tokens_that_are_bytes_are_letters_again(name: str, runtime: Runtime) -> None:
    preparation = texts_of(name, runtime)

    assert preparation.text_of(ids_of(preparation, "zwölf émigrés 😀")) == "zwölf émigrés 😀"


@EVERY_RUNTIME
@EVERY_MODEL
def test_what_is_no_id_is_told(name: str, runtime: Runtime) -> None:
    preparation = texts_of(name, runtime)

    for strange in (-1, 500_000, 2**32, 2**70):
        with pytest.raises(InvalidInputError, match=f"^{strange} is the id of no token"):
            preparation.text_of([5, strange])


@pytest.mark.parametrize("name", ["openai", "openclip", "sentence_transformers", "siglip1"])
def test_many_threads_read_ids_beside_texts(name: str) -> None:
    """Tokenizers of transformers change themselves at every text."""
    preparation = texts_of(name, "torch")
    texts = ["a photo of a cat " * (number % 20 + 1) for number in range(60)]
    expected = [preparation.text_of(ids_of(preparation, text)) for text in texts]

    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda text: preparation.text_of(ids_of(preparation, text)), texts)

    assert list(found) == expected


def test_pictures_have_no_vocabulary() -> None:
    images = golden_model("openai", "trained").towers["image"].preparation

    with pytest.raises(InvalidInputError, match="no vocabulary"):
        images.text_of([1])
