import base64

import pytest
from PIL import Image

from inference.errors import InvalidInputError
from inference.images import ImageLimits, decode_base64, open_image
from tests.pictures import base64_of, file_of, plain

LIMITS = ImageLimits(max_pixels=1_000_000)
RAW = bytes(range(256))


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(RAW).decode(),
        "data:image/png;base64," + base64.b64encode(RAW).decode(),
        "DATA:image/svg+xml;charset=utf-8;BASE64," + base64.b64encode(RAW).decode(),
        base64.encodebytes(RAW).decode(),
        " \r\n" + base64.b64encode(RAW).decode() + "\t",
        base64.urlsafe_b64encode(RAW).decode(),
        base64.urlsafe_b64encode(RAW).decode().rstrip("="),
    ],
    ids=["plain", "data-uri", "odd-data-uri", "lines", "padded", "url-safe", "unpadded"],
)
def test_every_usual_form_of_base64_is_read(text: str) -> None:
    assert decode_base64(text) == RAW


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
        decode_base64(text)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_usual_formats_are_decoded_in_their_own_mode(image_format: str) -> None:
    image = open_image(file_of(Image.new("L", (5, 4)), image_format), LIMITS)

    assert image.size == (5, 4)
    assert image.mode in {"L", "P", "RGB"}


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    raw = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert open_image(raw, LIMITS).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


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
        open_image(raw, LIMITS)


def test_too_many_pixels_are_refused_before_they_are_decoded() -> None:
    raw = file_of(Image.new("1", (20_000, 20_000)))  # 50 MB decoded, 50 kB as a file

    with pytest.raises(InvalidInputError, match="20000x20000 pixels are more than the 1000000"):
        open_image(raw, LIMITS)


def test_a_format_that_is_not_accepted_is_not_an_image() -> None:
    limits = ImageLimits(max_pixels=100, formats=("JPEG",))

    with pytest.raises(InvalidInputError, match=r"accepted format \(JPEG\)"):
        open_image(plain(), limits)


def test_memory_that_runs_out_is_a_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)

    with pytest.raises(InvalidInputError, match="a broken image: MemoryError"):
        open_image(plain(), LIMITS)


def test_a_prefix_does_not_change_the_bytes() -> None:
    assert decode_base64("data:image/png;base64," + base64_of(plain())) == plain()
