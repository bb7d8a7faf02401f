"""The example's parts that need no Weaviate: the folder, the rounds, and the contact sheet."""

import base64
import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from examples.contact_sheet import Match, contact_sheet
from examples.errors import PhotosError
from examples.photo_files import Photo, find_files, identify
from examples.rounds import Failures, describe, import_in_rounds
from tests.image_files import file_of, plain

REFUSED = "fail with status 422: images[0]: not an image"
UNREACHABLE = "send POST request: connection refused"


def write(path: Path, content: bytes = b"image") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# The folder


def test_images_are_found_in_folders_of_the_folder_whatever_their_case(tmp_path: Path) -> None:
    expected = [write(tmp_path / name) for name in ("a.PNG", "b.webp", "c/d/e.jpeg")]

    assert find_files(tmp_path) == expected


def test_hidden_files_and_what_is_no_image_are_left_out(tmp_path: Path) -> None:
    for name in (".a.png", ".trash/b.png", "notes.txt", "c.png/inner.txt"):
        write(tmp_path / name)

    assert find_files(write(tmp_path / "d.png").parent) == [tmp_path / "d.png"]


def test_a_hidden_folder_may_be_named_itself(tmp_path: Path) -> None:
    image = write(tmp_path / ".photos" / "a.png")

    assert find_files(tmp_path / ".photos") == [image]


def test_a_folder_without_images_is_reported_with_what_is_looked_for(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt")

    with pytest.raises(PhotosError, match=r"has no images: no file ends in .*\.png"):
        find_files(tmp_path)


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match=r"nowhere is no folder\."):
        find_files(tmp_path / "nowhere")


def test_an_image_keeps_its_id_when_it_is_moved_and_gets_another_when_it_changes(
    tmp_path: Path,
) -> None:
    paths = [write(tmp_path / "a.png", b"1"), write(tmp_path / "b.png", b"2")]
    (before, other), _ = identify(paths)
    (moved,), _ = identify([paths[0].rename(tmp_path / "c.png")])

    assert moved.id == before.id != other.id


def test_equal_files_are_one_image(tmp_path: Path) -> None:
    first = write(tmp_path / "a.png")
    images, unreadable = identify([first, write(tmp_path / "b.png")])

    assert [image.path for image in images] == [first]
    assert unreadable == {}


def test_what_cannot_be_read_is_reported_beside_what_can(tmp_path: Path) -> None:
    empty, gone, good = write(tmp_path / "a.png", b""), tmp_path / "b.png", tmp_path / "c.png"
    images, unreadable = identify([empty, gone, write(good)])

    assert [image.path for image in images] == [good]
    assert unreadable == {
        empty: "the file is empty",
        gone: "cannot be read: No such file or directory",
    }


# The rounds


class Sender:
    """Fails each file for as many rounds as its list of reasons is long."""

    def __init__(self, reasons: dict[str, list[str]]) -> None:
        self.reasons = reasons
        self.rounds: list[list[str]] = []

    def __call__(self, images: Sequence[Photo]) -> Failures:
        self.rounds.append([image.path.name for image in images])
        failing = [image.path for image in images if self.reasons.get(image.path.name)]
        return {path: self.reasons[path.name].pop(0) for path in failing}


def photos_of(tmp_path: Path, *names: str) -> list[Photo]:
    images, _ = identify([write(tmp_path / name, name.encode()) for name in names])
    return images


def test_only_what_failed_is_sent_again(tmp_path: Path) -> None:
    sender = Sender({"b": [UNREACHABLE], "c": [UNREACHABLE, UNREACHABLE]})
    reported: list[str] = []
    images = photos_of(tmp_path, "a", "b", "c")

    assert import_in_rounds(images, sender, reported.append, [0, 0, 0]) == {}
    assert sender.rounds == [["a", "b", "c"], ["b", "c"], ["c"]]
    assert reported == [
        f"2 failed:\n  {UNREACHABLE}: b, c\nTrying 2 of them again in 0 s.",
        f"1 failed:\n  {UNREACHABLE}: c\nTrying 1 of them again in 0 s.",
    ]


def test_what_was_refused_is_not_sent_again_and_not_forgotten(tmp_path: Path) -> None:
    sender = Sender({"a": [REFUSED], "b": [UNREACHABLE]})
    images = photos_of(tmp_path, "a", "b")

    failures = import_in_rounds(images, sender, lambda _: None, [0, 0, 0])

    assert failures == {tmp_path / "a": REFUSED}
    assert sender.rounds == [["a", "b"], ["b"]]


@pytest.mark.parametrize("status", [408, 429, 500, 503, 504])
def test_what_came_late_or_found_it_busy_is_sent_again(tmp_path: Path, status: int) -> None:
    sender = Sender({"a": [f"fail with status {status}: later"]})

    assert import_in_rounds(photos_of(tmp_path, "a"), sender, lambda _: None, [0]) == {}


def test_it_ends_after_the_last_pause_with_the_last_reasons(tmp_path: Path) -> None:
    sender = Sender({"a": ["first", "second", "third", "fourth"]})

    failures = import_in_rounds(photos_of(tmp_path, "a"), sender, lambda _: None, [0, 0])

    assert failures == {tmp_path / "a": "third"}


def test_failures_are_reported_by_their_reasons_with_some_of_the_names() -> None:
    failures = {Path(f"{number}.png"): UNREACHABLE for number in range(7)}

    assert describe(failures | {Path("x/y.png"): REFUSED}) == (
        f"8 failed:\n  {UNREACHABLE}: 0.png, 1.png, 2.png, 3.png, 4.png and 2 more"
        f"\n  {REFUSED}: y.png"
    )


# The contact sheet


class Reader(HTMLParser):
    """What a browser would show of a page: its texts, and its elements' attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            self.attributes.setdefault(f"{tag} {name}", []).append(value or "")


def images_of(page: Reader) -> list[Image.Image]:
    sources = page.attributes["img src"]
    return [Image.open(io.BytesIO(base64.b64decode(each.partition(",")[2]))) for each in sources]


def test_the_sheet_shows_the_matches_in_their_order_with_their_distances() -> None:
    colours = [(250, 0, 0), (0, 250, 0)]
    matches = [Match(Path(f"/x/{i}.png"), plain(colour), i / 8) for i, colour in enumerate(colours)]
    page = Reader(contact_sheet("two rings", matches))

    assert {"two rings", "0.png", "0.000", "1.png", "0.125"} <= set(page.texts)
    assert page.attributes["span title"] == ["/x/0.png", "/x/1.png"]
    shown = [image.convert("RGB").resize((1, 1)).tobytes() for image in images_of(page)]
    assert [red > green for red, green, _ in shown] == [True, False]


def test_nothing_that_it_shows_is_taken_for_html() -> None:
    nasty = "<script>alert(1)</script> & \"quotes\" 'more' $title"
    page = Reader(contact_sheet(nasty, [Match(Path(nasty), plain(), 0.5)]))

    assert page.texts.count(nasty) == 2  # the title and the heading
    assert page.attributes["img alt"] == [Path(nasty).name]
    assert page.attributes["span title"] == [nasty]
    assert "<script" not in contact_sheet(nasty, [])


def test_the_sheet_asks_for_nothing_from_elsewhere() -> None:
    page = contact_sheet("a ring", [Match(Path("a.png"), plain(), 0.5)])

    assert (
        re.findall(r"(?:src|href)=\"(?!data:image/webp;base64,)|url\(|@import|https?:", page) == []
    )


def test_the_sheet_of_an_image_begins_with_it(tmp_path: Path) -> None:
    query = write(tmp_path / "query.png", plain((0, 0, 250)))
    page = Reader(contact_sheet(query, [Match(Path("a.png"), plain(), 0.5)]))

    assert page.attributes["img alt"] == ["query.png", "a.png"]
    assert "query.png" in page.texts  # the title


def test_its_copies_are_small_and_turned_as_the_camera_was_held() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    wide = file_of(Image.new("RGB", (2000, 1000)), "JPEG", exif=exif)
    page = Reader(contact_sheet("a ring", [Match(Path("a.jpg"), wide, 0.5)]))

    assert [image.size for image in images_of(page)] == [(240, 480)]


def test_an_image_that_cannot_be_read_here_is_reported_in_its_place() -> None:
    page = Reader(contact_sheet("a ring", [Match(Path("a.heic"), b"unknown here", 0.5)]))

    assert {"no preview", "a.heic", "0.500"} <= set(page.texts)
