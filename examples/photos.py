"""Imports a folder of images into Weaviate, and finds them by a sentence or by an image.

A second run skips images that are in Weaviate already. Matches are printed with their distances,
and written as a contact sheet, an HTML file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from examples.album import Address, Album, connected
from examples.contact_sheet import Match, contact_sheet
from examples.errors import PhotosError
from examples.photo_files import Photo, find_files, identify
from examples.rounds import Failures, describe, import_in_rounds

SAMPLES = Path(__file__).parent.parent / "demo" / "samples"
_console = Console(highlight=False, markup=False, soft_wrap=True)


def main() -> int:
    """Import, then search; return 1 if images failed."""
    options = _options()
    address = Address(options.host, options.port, options.grpc_port)
    try:
        with connected(address) as client:
            album = Album(client, options.collection)
            failures = import_folder(options.folder, album)
            if query := options.text or options.image:
                show(query, album.nearest(query, options.count), options.sheet)
    except PhotosError as error:
        _console.print(str(error))
        return 1
    except KeyboardInterrupt:
        _console.print("Stopped. The next run continues from here.")
        return 130
    return int(bool(failures))


def _options() -> argparse.Namespace:
    form = argparse.ArgumentParser(prog="python -m examples.photos", description=__doc__)
    form.add_argument("folder", nargs="?", type=Path, default=SAMPLES, help="default: demo/samples")
    query = form.add_mutually_exclusive_group()
    query.add_argument("--text", metavar="SENTENCE", help="find the images nearest to it")
    query.add_argument("--image", metavar="FILE", type=_file, help="find those nearest to it")
    form.add_argument("--count", type=_count, default=8, help="how many to find (default: 8)")
    form.add_argument(
        "--sheet", type=Path, default=Path("contact-sheet.html"), help="default: contact-sheet.html"
    )
    form.add_argument("--collection", default="Photos", help="in Weaviate (default: Photos)")
    form.add_argument("--host", default="localhost", help="Weaviate's (default: localhost)")
    form.add_argument("--port", type=int, default=8080, help="Weaviate's (default: 8080)")
    form.add_argument("--grpc-port", type=int, default=50051, help="its other (default: 50051)")
    return form.parse_args()


def _file(value: str) -> Path:
    if not Path(value).is_file():
        raise argparse.ArgumentTypeError(f"{value} is no file")
    return Path(value)


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"{value} is no number above 0")
    return int(value)


def import_folder(folder: Path, album: Album) -> Failures:
    """Import the images of a folder that are not in the album; print and return failures.

    Raises:
        PhotosError: the folder holds no images.
    """
    files = find_files(folder)
    images, unreadable = identify(files)
    there = album.ids()
    new = [image for image in images if image.id not in there]
    _console.print(f"{len(files)} images in {folder}; {len(new)} to import.")

    def send(some: Sequence[Photo]) -> Failures:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
            task = progress.add_task("Importing", total=len(some))
            return album.send(some, advance=lambda: progress.advance(task))

    failures = unreadable | (import_in_rounds(new, send, report=_console.print) if new else {})
    if failures:
        _console.print(describe(failures))
    return failures


def show(query: str | Path, matches: Sequence[Match], sheet: Path) -> None:
    """Print the matches, and write the contact sheet.

    Raises:
        PhotosError: the contact sheet cannot be written.
    """
    for match in matches:
        _console.print(f"{match.distance:.3f}  {match.file}")
    try:
        sheet.write_text(contact_sheet(query, matches), encoding="utf-8")
    except OSError as error:
        raise PhotosError(f"The contact sheet cannot be made: {error}") from error
    _console.print(f"Contact sheet: {sheet.resolve().as_uri()}")


if __name__ == "__main__":
    sys.exit(main())
