"""Qwen3-VL-Embedding: recorded answers of the reference, folders, template and images."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from backends.conversion.conversion_cache import converted
from backends.conversion.description import Description
from backends.embed import embed
from backends.families import chat_template
from backends.folder import detect
from backends.hub_cache import hub_snapshot
from backends.model import EncodeParams, ModelOptions, Rows, Runtime
from backends.preprocessing import conversation
from backends.preprocessing.blocks import Around, BlockProcessor, Blocks, Grid
from backends.replicas import load_replica
from backends.runtimes.openvino.stages import OpenVinoStages, Turns
from config import Settings
from errors import InvalidInputError, ModelFolderError, QueueFullError, RequestTooLargeError
from inference.request import EmbedInput
from tests.asgi import serving
from tests.golden_cases import (
    EVERY_RUNTIME,
    GOLDEN,
    Case,
    assert_same,
    embed_texts,
    golden_model,
    recorded,
    text_cases,
)
from tests.image_files import base64_of, file_of
from tests.service import CONVERTED
from vectorizer import Vectorizer

NAME = "Qwen/Qwen3-VL-Embedding-2B"
PROCESSOR_FILES = ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"]
AS_TRAINED = Blocks(patch_px=16, merged=2, positions=12, least_px=4 * 1024, most_px=1800 * 1024)
AROUND = Around([1, 2, 3], [4, 5])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "qwen3_vl", tmp_path / "models"))


def snapshot_in(root: Path) -> Path:
    path = hub_snapshot(root / "qwen3", NAME)
    assert path
    return path


def assert_golden_texts(root: Path) -> None:
    model = load_replica(detect(root), ModelOptions())
    for case in text_cases("qwen3_vl", "trained"):
        assert_same(embed_texts(model, [case.content])[0], case)


# What the reference gets wrong, and what is answered here.
REFUSED = {
    "aspect ratio 300, refused by qwen-vl-utils": "images[0]: 1x300 pixels: this model reads no",
    "the same beside a text": "images[0]: 1x300 pixels",
    "the same beside a picture": "images[1]: 1x300 pixels",
    "no image at all": "images[0]: not an image",
    "no base64": "images[0]: ",
    "a data URL": "images[0]: 1x300 pixels",
    "a cut JPEG": "images[0]: ",
    "one bad picture beside a good text": "images[0]: ",
    "a number": "texts",
    "null in the list": "texts",
    "a list": "texts",
}
ANSWERED = ("nothing", "null")  # empty lists, as by every other family
CUT = {
    "9,000 digits, over max_length": "0",
    "the same beside a short text": "0",
    "8,160 digits: the end of the frame is cut off": "0",
}


def as_sent(images: Sequence[str] | None) -> list[str] | None:
    if images is None:
        return None
    return [
        base64_of((GOLDEN / "images" / one).read_bytes()) if one.endswith(SUFFIXES) else one
        for one in images
    ]


SUFFIXES = (".png", ".bmp", ".jpg", ".webp", ".gif", ".tif")


def assert_recorded(vectors: Any, expected: Sequence[Sequence[float]]) -> None:
    assert len(vectors) == len(expected)
    for vector, one in zip(vectors, expected, strict=True):
        assert_same(np.array(vector, np.float32), Case("", np.array(one)))


@pytest.mark.anyio
@EVERY_RUNTIME
async def test_every_recorded_request_has_its_answer(runtime: Runtime) -> None:
    backend: Any = SimpleNamespace(model=golden_model("qwen3_vl", "trained", runtime))
    requests = recorded("qwen3_vl")["more"]
    async with serving(backend, request_timeout_s=600) as client:
        for one in requests:
            body = {"texts": one["texts"], "images": as_sent(one["images"])}
            answer = await client.post("/vectorize", json=body)
            what = f"{one['name']}: {answer.text[:200]}"
            if one["name"] in REFUSED and not is_text_beside(one):
                assert answer.status_code == 422, what
                assert answer.json()["error"].startswith(REFUSED[one["name"]]), what
            elif one["name"] in ANSWERED:
                assert answer.json() == {"textVectors": [], "imageVectors": []}, what
            elif one["status"] == 200:
                assert answer.status_code == 200, what
                assert_recorded(answer.json()["textVectors"], one["textVectors"])
                assert_recorded(answer.json()["imageVectors"], one["imageVectors"])
                assert answer.headers.get("x-truncated") == CUT.get(one["name"]), what
            else:
                assert is_text_beside(one), what
                assert_recorded(answer.json()["textVectors"], of_the_same_text_alone(requests))


def is_text_beside(request: dict[str, Any]) -> bool:
    """A text with the image's token, beside an image: the reference mixes them up."""
    return bool(request["status"] == 500 and request["texts"] == ["a <|image_pad|> b"])


def of_the_same_text_alone(requests: Sequence[dict[str, Any]]) -> Any:
    (alone,) = (one for one in requests if one["name"] == "a text with the picture token")
    return alone["textVectors"]


@EVERY_RUNTIME
def test_meta_is_the_config_that_lies_in_the_folder(runtime: Runtime) -> None:
    assert golden_model("qwen3_vl", "trained", runtime).info.config == recorded("qwen3_vl")["meta"]


def test_a_folder_without_that_config_shows_the_models(root: Path) -> None:
    (root / "qwen3/config.json").unlink()

    shown = load_replica(detect(root), ModelOptions()).info.config
    assert shown == recorded("qwen3_vl")["meta"]


def test_weights_in_shards_are_read(root: Path) -> None:
    weights = load_file(snapshot_in(root) / "model.safetensors")
    (snapshot_in(root) / "model.safetensors").unlink()
    for number in range(2):
        part = dict(list(weights.items())[number::2])
        save_file(part, snapshot_in(root) / f"model-{number + 1:05}-of-00002.safetensors")

    assert_golden_texts(root)


def test_weights_that_are_missing_are_reported(root: Path) -> None:
    path = snapshot_in(root) / "model.safetensors"
    weights = load_file(path)
    del weights["model.language_model.norm.weight"]
    save_file(weights, path)

    with pytest.raises(
        ModelFolderError, match=r"do not fit: language_model\.norm\.weight is missing"
    ):
        load_replica(detect(root), ModelOptions())


# The folder of the reference, whose other half lies in the hub's default cache.


def leave_only_weights(root: Path) -> Path:
    """Move all but config and weights out of a folder; return where it is now, a hub cache."""
    snapshot, cache = snapshot_in(root), root.parent / "hub"
    repository = f"models--{NAME.replace('/', '--')}"
    there = cache / repository / "snapshots" / snapshot.name
    there.mkdir(parents=True)
    shutil.copytree(root / "qwen3" / repository / "refs", cache / repository / "refs")
    for file in snapshot.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.rename(there / file.name)
    return cache


def test_a_folder_of_the_reference_is_served_with_its_hub_cache(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(leave_only_weights(root)))

    assert_golden_texts(root)


def test_the_content_of_a_model_counts_what_lies_in_the_hub_cache(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = leave_only_weights(root)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    before = load_replica(detect(root), ModelOptions()).info.vector_space
    (template,) = cache.glob("*/snapshots/*/chat_template.jinja")
    template.write_text(template.read_text().replace("assistant", "model"))

    assert load_replica(detect(root), ModelOptions()).info.vector_space != before


def test_a_folder_without_that_cache_says_what_to_fetch(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    leave_only_weights(root)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))

    with pytest.raises(ModelFolderError, match=r"fetches them: hf download Qwen/Qwen3-VL-Emb"):
        load_replica(detect(root), ModelOptions())


# The template is a program that came with the weights.


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "1 s"),
        ("{% set x = 'a' * 4000000000 %}", "MemoryError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ raise_exception('Only one message!') }}", "Only one message!"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "2 times"),
        ("nothing of what was said", "0 times"),
        ("{% for", "rendering its chat template"),
    ],
)
def test_a_template_that_does_anything_else_is_refused(
    root: Path, template: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sentence == "1 s":  # else the process may take longer to start
        monkeypatch.setattr(chat_template, "_TIMEOUT_S", 1)
    (snapshot_in(root) / "chat_template.jinja").write_text(template)

    with pytest.raises(ModelFolderError, match=sentence):
        load_replica(detect(root), ModelOptions())


def test_a_template_in_the_tokenizers_config_is_found(root: Path) -> None:
    path = snapshot_in(root) / "chat_template.jinja"
    config = snapshot_in(root) / "tokenizer_config.json"
    described = {**json.loads(config.read_text()), "chat_template": path.read_text()}
    config.write_text(json.dumps(described))
    path.unlink()

    assert_golden_texts(root)


# Images.


@pytest.mark.parametrize(
    ("size", "bound", "grid"),
    [
        ((640, 480), None, (15, 20)),
        ((48, 80), None, (2, 2)),  # 1.5 and 2.5, each to the next even number
        ((7, 7), None, (2, 2)),
        ((400, 10), None, (1, 12)),
        ((2, 400), None, (12, 1)),
        ((2000, 1000), None, (29, 59)),
        ((18_000, 120), None, (3, 519)),
        ((640, 480), 65_536, (6, 9)),
        ((32, 6400), 32_768, (32, 1)),
        ((6400, 32), 32_768, (1, 32)),
        ((640, 480), 4_000_000, (15, 20)),
    ],
)
def test_the_size_of_an_image_follows_the_rule(
    size: tuple[int, int], bound: int | None, grid: tuple[int, int]
) -> None:
    bounded = replace(AS_TRAINED, most_px=min(bound or AS_TRAINED.most_px, AS_TRAINED.most_px))

    assert bounded.grid_for(size) == grid


@pytest.mark.parametrize("bound", [32_768, 65_536, 1_843_200])
def test_no_image_has_more_pixels_than_the_bound(bound: int) -> None:
    blocks = replace(AS_TRAINED, most_px=bound)
    sides = [1, 5, 31, 33, 100, 999, 5000]
    sizes = [(width, height) for width in sides for height in sides if width <= 200 * height]
    grids = [blocks.grid_for(size) for size in sizes if size[1] <= 200 * size[0]]

    assert max(grid.blocks for grid in grids) * 1024 <= bound
    assert min(map(min, grids)) >= 1


@pytest.mark.parametrize("grid", [Grid(1, 12), Grid(2, 3), Grid(7, 5), Grid(30, 60)])
def test_patches_have_the_places_of_transformers(grid: Grid) -> None:
    reported = torch.tensor([[1, grid.rows * 2, grid.columns * 2]])
    places, shares = get_vision_interpolation_indices_and_weights(
        reported, num_grid_per_side=12, align_corners=True, spatial_merge_size=2
    )
    corners = AS_TRAINED.corners(grid)

    # Where a place falls on a position, the other has no share, and may be any.
    counts = shares.numpy() > 0
    assert (np.where(counts, corners[0].reshape(-1, 4) - places.numpy(), 0) == 0).all()
    np.testing.assert_allclose(corners[1].reshape(-1, 4), shares.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(
        AS_TRAINED.places(grid).reshape(-1, 2), get_vision_position_ids(reported, 2).numpy()
    )


def test_what_follows_an_image_begins_where_its_longer_side_ends() -> None:
    assert AROUND.places(Grid(2, 3)).T.tolist() == [
        *([0] * 3, [1] * 3, [2] * 3),
        *([3, 3, 3], [3, 3, 4], [3, 3, 5], [3, 4, 3], [3, 4, 4], [3, 4, 5]),
        *([6] * 3, [7] * 3),
    ]


@pytest.mark.parametrize("size", [(640, 480), (7, 7), (10, 400), (3000, 2000), (64, 64)])
def test_the_estimate_is_what_an_image_costs(size: tuple[int, int]) -> None:
    processor = BlockProcessor(AS_TRAINED, AROUND)
    image = Image.new("RGB", size)

    prepared = processor.prepare(image, EncodeParams())
    assert processor.estimate(file_of(image)) == prepared.cost
    assert prepared.cost == -(-(len(prepared.arrays[0]) + 5) // 64)


def test_a_file_whose_header_does_not_tell_its_size_is_estimated_at_the_most() -> None:
    assert BlockProcessor(AS_TRAINED, AROUND).estimate(b"no picture") == -(-1805 // 64)


def test_a_text_whose_conversation_has_an_id_without_an_embedding_is_rejected() -> None:
    folder = converted(detect(GOLDEN / "qwen3_vl"), ModelOptions(cache_dir=CONVERTED))
    described = Description.read(folder).towers["text"].preparation
    processor = conversation.read(folder, described, ModelOptions())
    largest = int(processor.prepare("a", EncodeParams()).arrays[0].max())
    processor.limit_ids(largest)

    with pytest.raises(InvalidInputError, match=f"a token has the id {largest}, and"):
        processor.prepare("a", EncodeParams())


def noise(size: tuple[int, int]) -> Image.Image:
    random = np.random.default_rng(3)
    return Image.fromarray(random.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@EVERY_RUNTIME
def test_a_bound_on_the_pixels_is_part_of_the_vector_space_where_it_binds(runtime: Runtime) -> None:
    folder = detect(GOLDEN / "qwen3_vl")
    free, wide, tight = (
        load_replica(
            folder, ModelOptions(runtime=runtime, cache_dir=CONVERTED, max_read_pixels=bound)
        )
        for bound in (None, 5_000_000, 20_000)
    )
    large, small = noise((300, 200)), noise((64, 64))
    vectors = [embed(model.towers["image"], [large, small]) for model in (free, tight)]

    assert free.info.runtime == tight.info.runtime == runtime
    assert free.info.vector_space == wide.info.vector_space != tight.info.vector_space
    assert not np.allclose(vectors[0][0], vectors[1][0], atol=1e-3)
    np.testing.assert_allclose(vectors[0][1], vectors[1][1], rtol=0, atol=1e-5)


@asynccontextmanager
async def on_a_slow_machine(timeout_s: float) -> AsyncIterator[Vectorizer]:
    model = golden_model("qwen3_vl", "trained")
    tower = model.towers["image"]

    def compute(*arrays: np.ndarray) -> Rows:
        time.sleep(0.1 * arrays[0].shape[1] / 64)
        return tower.network(*arrays)

    towers = {**model.towers, "image": replace(tower, network=compute)}
    vectorizer = Vectorizer([replace(model, towers=towers)], Settings(request_timeout_s=timeout_s))
    try:
        await vectorizer.warm_up()
        yield vectorizer
    finally:
        await vectorizer.aclose()


@pytest.mark.anyio
async def test_an_image_that_takes_too_long_by_itself_is_refused_by_its_header() -> None:
    large = file_of(Image.new("RGB", (1300, 1300)))[:40]  # what comes after its header is missing
    async with on_a_slow_machine(timeout_s=1.0) as vectorizer:
        with pytest.raises(RequestTooLargeError, match=r"at least \d+ s here.* a smaller one"):
            await vectorizer.embed([EmbedInput("images[0]", "image", base64_of(large))])


@pytest.mark.anyio
async def test_an_image_that_would_be_answered_too_late_is_refused_at_once_by_its_cost() -> None:
    images = [file_of(Image.new("RGB", (640, 480), (level, 0, 0))) for level in range(6)]
    async with on_a_slow_machine(timeout_s=2.0) as vectorizer:
        answers = await asyncio.gather(
            *(
                vectorizer.embed([EmbedInput("images[0]", "image", base64_of(image))])
                for image in images
            ),
            return_exceptions=True,
        )
    refused = [answer for answer in answers if isinstance(answer, QueueFullError)]

    # Each takes half a second at least, and an answer is promised for no later than 1.4 s.
    assert len(refused) >= 3
    assert all("an answer would take about" in str(one) for one in refused)
    assert all(one.retry_after_s >= 1 for one in refused)


# Stages.


def converted_folder() -> Path:
    golden_model("qwen3_vl", "trained", "openvino")
    (path,) = CONVERTED.glob("qwen3_vl-*-1-????????????????")
    return path


def test_the_language_network_is_converted_once_for_texts_and_images() -> None:
    towers = json.loads((converted_folder() / "model.json").read_text())["towers"]
    texts, images = (
        {stage["file"] for stage in towers[modality]["network"]["stages"]}
        for modality in ("text", "image")
    )

    assert texts == {"start.xml", "language-00.xml", "language-01.xml", "end.xml"}
    assert texts < images
    assert {path.name for path in converted_folder().glob("*.xml")} == images


def test_both_towers_compute_by_the_same_compiled_stages() -> None:
    model = golden_model("qwen3_vl", "trained", "openvino")
    texts, images = (model.towers[name].network for name in ("text", "image"))

    assert isinstance(texts, OpenVinoStages)
    assert isinstance(images, OpenVinoStages)
    assert texts.shelf is images.shelf


def wait_for(turns: Turns, waiting: int) -> None:
    ends_s = time.monotonic() + 30
    while turns.waiting < waiting and time.monotonic() < ends_s:
        time.sleep(0.001)
    assert turns.waiting == waiting


def test_turns_are_taken_in_the_order_of_those_who_came() -> None:
    turns, seen = Turns(), list[int]()

    def take(number: int) -> None:
        with turns.taken():
            seen.append(number)

    threads = [threading.Thread(target=take, args=[number]) for number in range(5)]
    with turns.taken():
        for number, thread in enumerate(threads):
            thread.start()
            wait_for(turns, number + 1)
    for thread in threads:
        thread.join(10)

    assert seen == [*range(5)]


def test_a_text_waits_for_one_stage_of_an_image_and_not_for_its_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = golden_model("qwen3_vl", "trained", "openvino")
    texts, images = model.towers["text"], model.towers["image"]
    assert isinstance(texts.network, OpenVinoStages)
    turns, order = texts.network.shelf.turns, list[str]()
    real = turns.taken

    def watched() -> Any:
        order.append(threading.current_thread().name)
        return real()

    monkeypatch.setattr(turns, "taken", watched)
    with real():
        started = [
            threading.Thread(target=embed, name="image", args=[images, [noise((64, 64))]]),
            threading.Thread(target=embed, name="text", args=[texts, ["a"]]),
        ]
        for number, thread in enumerate(started):
            thread.start()
            wait_for(turns, number + 1)
    for thread in started:
        thread.join(30)

    # The image asks again for each stage that texts have too; the text only once.
    assert order == ["image", "text", "image", "image", "image"]
