import base64
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from backends.model import EncodeParams
from backends.preprocessing.pixels import PixelProcessor
from config import Settings
from errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidInputError,
    RequestTooLargeError,
)
from inference.images import guards
from inference.images.decoder import ImageDecoder, decode_base64
from inference.images.preprocess import ImagePreprocessor
from inference.timings import ItemTimes
from tests.image_files import LIMITS, READER, base64_of, file_of, plain
from tests.mutants import icon_of, jpeg_of_scans, png_of_chunks, png_of_metadata

RAW = bytes(range(256))


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(RAW).decode(),
        "data:image/png;base64," + base64.b64encode(RAW).decode(),
        "DATA:image/svg+xml;charset=utf-8;BASE64," + base64.b64encode(RAW).decode(),
        "\r\n data:;base64," + base64.b64encode(RAW).decode(),
        base64.encodebytes(RAW).decode(),
        " \r\n" + base64.b64encode(RAW).decode() + "\t",
        base64.urlsafe_b64encode(RAW).decode(),
        base64.urlsafe_b64encode(RAW).decode().rstrip("="),
    ],
    ids=[
        "plain",
        "data-uri",
        "odd-data-uri",
        "late-data-uri",
        "lines",
        "padded",
        "url-safe",
        "unpadded",
    ],
)
def test_every_usual_form_of_base64_is_read(text: str) -> None:
    assert decode_base64(text, 1000) == RAW


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png,abcd", "data: URI"),
        ("data:image/png", "data: URI"),
        ("!!!!", "not base64"),
        ("abc*defg", "not base64"),
        ("abcde", "not base64"),
        ("AAAA=AAA", "not base64"),
        ("http://example.org/cat.png", "not base64"),
        ("ééé", "not base64"),
    ],
)
def test_junk_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        decode_base64(text, 1000)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_usual_formats_are_decoded_in_their_own_mode(image_format: str) -> None:
    image = READER.open(file_of(Image.new("L", (5, 4)), image_format))

    assert image.size == (5, 4)
    assert image.mode in {"L", "P", "RGB"}


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    raw = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert READER.open(raw).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"hello", "not an image"),
        (plain(size=(64, 64))[:80], "a broken image"),
        (file_of(Image.new("RGB", (64, 64)), "JPEG")[:400], "a broken image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "image"),
    ],
)
def test_broken_files_are_refused_when_they_are_opened(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        READER.open(raw)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    raw = file_of(Image.new("1", (20_000, 20_000)))  # 50 MB decoded, 50 kB as a file

    with pytest.raises(InvalidInputError, match="20000x20000 pixels are more than the 1000000"):
        READER.open(raw)


def test_too_large_a_file_is_refused() -> None:
    with pytest.raises(RequestTooLargeError, match="a file of 1001 bytes; at most 1000"):
        decode_base64(base64_of(bytes(1001)), 1000)


@pytest.mark.parametrize("size", [(200_000, 3), (3, 200_000)])
def test_an_image_that_would_be_huge_once_scaled_is_refused(size: tuple[int, int]) -> None:
    raw = file_of(Image.new("1", size))
    assert len(raw) < 5000

    with pytest.raises(RequestTooLargeError, match="pixels, once scaled, are more than"):
        READER.open(raw)


def test_a_format_that_is_not_accepted_is_not_an_image() -> None:
    reader = ImageDecoder(replace(LIMITS, formats=("JPEG",)))

    with pytest.raises(InvalidInputError, match=r"accepted format \(JPEG\)"):
        reader.open(plain())


@pytest.mark.parametrize(
    "image_format",
    [name for name in Settings().image_formats if name != "HEIF"],
)
def test_what_people_keep_images_in_is_accepted(image_format: str) -> None:
    reader = ImageDecoder(replace(LIMITS, formats=Settings().image_formats))
    colours = [Image.new("RGB", (32, 16), colour) for colour in ("red", "blue")]
    options = {"save_all": True, "append_images": colours[1:]} if image_format == "MPO" else {}
    if image_format == "ICO":
        options = {"sizes": [(32, 16)]}
    image = reader.open(file_of(colours[0], image_format, **options))

    assert image.size == (32, 16)
    assert np.abs(np.asarray(image.convert("RGB"))[8, 16] - np.array([255, 0, 0])).max() < 8


@pytest.mark.parametrize("image_format", ["EPS", "PDF", "SGI", "SPIDER", "MSP", "PCX"])
def test_exotic_formats_are_reached_only_when_asked_for(image_format: str) -> None:
    mode = {"MSP": "1", "SPIDER": "F"}.get(image_format, "L")
    raw = file_of(Image.new(mode, (16, 16)), image_format)

    with pytest.raises(InvalidInputError, match="not an image of an accepted format"):
        ImageDecoder(replace(LIMITS, formats=Settings().image_formats)).open(raw)
    if image_format not in {"EPS", "PDF"}:  # one starts a program, of the other nothing is read
        assert READER.open(raw).size == (16, 16)


def test_threads_wait_for_each_others_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ImageDecoder(replace(LIMITS, max_pixels=100 * 100))
    decoding: list[int] = []
    load = PngImageFile.load

    def watched_load(image: PngImageFile) -> object:
        decoding.append(+1)
        together.append(sum(decoding))
        time.sleep(0.02)
        try:
            return load(image)
        finally:
            decoding.append(-1)

    together: list[int] = []
    monkeypatch.setattr(PngImageFile, "load", watched_load)
    large, small = (file_of(Image.new("L", size)) for size in ((100, 100), (50, 50)))
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(reader.open, [large] * 4))
        assert max(together) == 1
        assert all(pool.map(reader.open, [small] * 8))
        assert max(together) > 1


def test_memory_that_runs_out_is_a_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)

    with pytest.raises(InvalidInputError, match="a broken image: MemoryError"):
        READER.open(plain())


def test_a_prefix_does_not_change_the_bytes() -> None:
    assert decode_base64("data:image/png;base64," + base64_of(plain()), 1000) == plain()


def test_a_format_that_does_not_exist_ends_the_start() -> None:
    with pytest.raises(ConfigurationError, match=r"no format is called JPG; Pillow knows .* JPEG"):
        ImageDecoder(replace(LIMITS, formats=("JPG", "PNG")))


def test_only_formats_whose_decoder_is_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    reader = ImageDecoder(replace(LIMITS, formats=("JPEG", "MPO", "HEIF")))

    with pytest.raises(InvalidInputError, match=r"of an accepted format \(JPEG, MPO\)$"):
        reader.open(b"hello")
    with pytest.raises(ConfigurationError, match="pip install pillow-heif"):
        ImageDecoder(replace(LIMITS, formats=("HEIF",)))


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"workflow\0" + bytes(2_000_000)),
        (b"zTXt", b"workflow\0\0" + zlib.compress(bytes(100_000_000))),
        (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(bytes(2_000_000))),
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(2_000_000))),
        (b"eXIf", bytes(2_000_000)),
        (b"prVt", bytes(2_000_000)),
    ],
    ids=lambda chunk: chunk[0].decode(),
)
def test_what_is_written_about_a_png_does_not_break_it(chunk: tuple[bytes, bytes]) -> None:
    raw = png_of_metadata(chunk)
    expected = READER.open(png_of_metadata()).convert("RGB").tobytes()

    assert READER.open(raw).convert("RGB").tobytes() == expected
    assert READER.open(icon_of(raw)).convert("RGB").tobytes() == expected


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"\0\0\1\0\0\0", "a broken image: an ICO without an image"),
        (b"\0\0\1\0\0\0" + bytes(40), "a broken image: an ICO without an image"),
        (b"\0\0\1\0\0", "a broken image: its parts do not fit together"),
    ],
)
def test_a_broken_file_is_reported_in_words_about_it(raw: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInputError) as reported:
        READER.open(raw)

    assert str(reported.value) == sentence


@pytest.mark.parametrize("brightest", [200, 40_000])
def test_grey_beyond_8_bits_is_white_and_the_log_says_so_once(
    brightest: int, caplog: pytest.LogCaptureFixture
) -> None:
    grey = np.array([[0, brightest]], np.uint16)
    raw = file_of(Image.fromarray(grey))
    preprocess = ImagePreprocessor(PixelProcessor(np.asarray), LIMITS)
    for _ in range(2):
        preprocess(raw, EncodeParams(), ItemTimes())

    assert caplog.text.count("Values above 255") == (brightest > 255)


def test_the_image_in_an_icon_is_checked_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(PngImageFile, "load", never)

    with pytest.raises(RequestTooLargeError, match="20000x20000 pixels are more"):
        READER.open(icon_of(file_of(Image.new("1", (20_000, 20_000)))))


def test_pixels_are_held_until_the_image_is_let_go() -> None:
    reader = ImageDecoder(replace(LIMITS, max_pixels=100 * 100))
    large = file_of(Image.new("L", (100, 100)))
    with ThreadPoolExecutor(1) as pool:
        with reader.opened(large):
            other = pool.submit(reader.open, large)
            with pytest.raises(TimeoutError):
                other.result(timeout=0.2)
        assert other.result(timeout=10).size == (100, 100)


def test_nobody_waits_for_ever_for_an_image_that_hangs() -> None:
    reader = ImageDecoder(replace(LIMITS, max_pixels=100 * 100, max_wait_s=0.5))
    large, small = (file_of(Image.new("L", size)) for size in ((100, 100), (10, 10)))
    with ThreadPoolExecutor(3) as pool:
        with reader.opened(large):
            others = [pool.submit(reader.open, raw) for raw in (large, small, large)]
            for other, timeout_s in zip(others, (10, 0.3, 0.3), strict=True):
                with pytest.raises(DeadlineExceededError):  # all at once, and not one by one
                    other.result(timeout_s)
        assert pool.submit(reader.open, large).result(timeout=10).size == (100, 100)


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    assert READER.open(jpeg_of_scans(64, 99)).size == (64, 64)
    with pytest.raises(InvalidInputError, match="a JPEG of more than 100 scans"):
        READER.open(jpeg_of_scans(64, 101))


def test_what_follows_a_jpeg_is_not_taken_for_its_scans() -> None:
    film = b"\xff\xda\0\x02" * 1000  # a phone's moving picture

    assert READER.open(file_of(Image.new("RGB", (8, 8)), "JPEG") + film).size == (8, 8)


def test_a_file_that_takes_long_to_parse_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "MAX_PARSE_S", 0.05)

    with pytest.raises(InvalidInputError, match=r"takes over 0\.05 s to read"):
        READER.open(png_of_chunks(100_000))


@pytest.mark.parametrize("unit", ["A ", "QUJD\n", "😀", "é", "-_-_"])
def test_no_base64_takes_long_to_judge(unit: str) -> None:
    text = (unit * 10_000_000)[:10_000_000]
    started_s = time.process_time()
    with suppress(InvalidInputError):
        decode_base64(text, 100_000_000)

    assert time.process_time() - started_s < 0.5  # no other thread runs meanwhile
