from pathlib import Path

import pytest

from backends.atomic_install import install, staging
from errors import DownloadError, describe_error, disk_fault
from fetch.record import is_whole, write_record

PARTS = ["download.json", "second", "first"]  # a start looks for the first
REQUEST = {"MODEL": "org/name@"}


def fill(folder: Path, content: str) -> None:
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(content)
    write_record(folder, REQUEST, {"org/name": "abc"})


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    with staging(root) as folder:
        fill(folder, "old")
        install(folder, root, PARTS)
    return root


def test_the_parts_are_all_that_is_left(installed: Path) -> None:
    assert {path.name for path in installed.iterdir()} == set(PARTS)
    assert is_whole(installed, REQUEST)


def test_parts_are_replaced(installed: Path) -> None:
    with staging(installed) as folder:
        fill(folder, "newer")
        install(folder, installed, PARTS)

    assert (installed / "first/file").read_text() == "newer"
    assert is_whole(installed, REQUEST)


def test_everyone_may_read_what_was_written_for_its_owner_only(tmp_path: Path) -> None:
    """As the hub's library writes; a container may run as a user that does not exist."""
    root = tmp_path / "root"
    with staging(root) as folder:
        fill(folder, "new")
        (folder / "first/file").chmod(0o600)
        (folder / "first").chmod(0o700)
        install(folder, root, PARTS)

    assert (root / "first").stat().st_mode & 0o777 == 0o755
    assert (root / "first/file").stat().st_mode & 0o777 == 0o644


def test_parts_that_cannot_be_renamed_are_deleted(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of a lower layer of an image, which overlayfs does not rename."""
    rename = Path.rename

    def as_overlayfs(path: Path, target: Path) -> Path:
        if path.parent == installed:
            raise OSError(18, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", as_overlayfs)
    with staging(installed) as folder:
        fill(folder, "newer")
        install(folder, installed, PARTS)

    assert (installed / "first/file").read_text() == "newer"


@pytest.mark.parametrize("damage", ["a file is gone", "a file is shorter", "the record is gone"])
def test_what_is_damaged_is_not_whole(installed: Path, damage: str) -> None:
    file = installed / ("download.json" if damage.startswith("the record") else "second/file")
    if damage.endswith("gone"):
        file.unlink()
    else:
        file.write_text("ol")

    assert not is_whole(installed, REQUEST)


def test_another_request_is_not_what_is_there(installed: Path) -> None:
    assert not is_whole(installed, {"MODEL": "org/name@v2"})


def test_an_error_inside_leaves_nothing_not_even_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot be written: the disk is full"):  # noqa: PT012, SIM117
        with staging(tmp_path / "new/root") as folder:
            (folder / "half").write_text("half")
            raise OSError(28, "No space left on device")

    assert not (tmp_path / "new/root").exists()


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DownloadError, match="file/root cannot be written: Not a directory"):  # noqa: SIM117
        with staging(tmp_path / "file/root"):
            pass


def test_a_full_disk_is_recognised_by_any_library() -> None:
    rust = RuntimeError("I/O error: No space left on device (os error 28)")
    wrapped = ValueError("could not download")
    wrapped.__cause__ = OSError(122, "Disk quota exceeded")

    assert disk_fault(rust) == "the disk is full"
    assert disk_fault(wrapped) == "the disk quota is used up"
    assert disk_fault(ValueError("else")) is None
    assert describe_error(ValueError("else\nmore")) == "else"
