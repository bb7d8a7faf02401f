#!/usr/bin/env python3
"""Downloads the model that the environment names into the model folder, at build time.

    environment, or --model TAG -> plan -> fetch from the hub -----------> staging folder
                                        save in the layout, load, embed <--'
                                        (a process without network) -----> into place
                                        convert for OpenVINO (another) --> beside it, or exported

It needs only `fetch/`, `backends/` and their imports, so an image build can run it before the rest
of the code is copied. The layouts are those of the reference's `download.py`, with two differences:
MetaCLIP 2 is saved by its own class, and an OpenCLIP model with a Hugging Face text tower is saved
with the files that it needs to start without a network.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from backends.atomic_install import install, staging
from backends.folder import LAYOUTS, RECORD, Family, detect
from backends.jobs import Answer, JobError, JobKilledError, run_in_subprocess
from backends.load import options_for
from backends.text_folder import is_served_as_it_is
from config import DownloadSettings, Settings, doubts, forbid_hub_access, read
from errors import ConversionError, DownloadError, StartupError
from fetch import catalogue
from fetch.export import export
from fetch.hub import Hub
from fetch.plan import fetch_model, plan
from fetch.record import is_whole, write_record

logger = logging.getLogger(__name__)

_SAVING = "fetch.layouts"


def download(settings: DownloadSettings) -> None:
    """Download the model into the model folder, completely or not at all.

    Raises:
        DownloadError: the download failed, or the downloaded model does not work.
    """
    if find_spec("torch") is None:
        raise DownloadError(
            "download.py needs torch, which checks that a model works: install "
            "requirements.txt, or run it in the custom image"
        )
    wanted = plan(settings)
    root = settings.models_dir or Path("./models")
    _refuse_other_family(root, wanted.family)
    request = wanted.request(settings.trust_remote_code)
    if is_whole(root, request):
        logger.info("The model is already in %s", root.absolute())
        return
    with staging(root) as folder:
        logger.info("Downloading into %s", root.absolute())
        hub, parts = Hub(folder / "hub"), folder / "parts"
        parts.mkdir()
        sources = fetch_model(wanted, hub, parts, settings.trusts_remote_code)
        logger.info("Checking that it loads and embeds without network")
        answer = _finish(settings, wanted.family, folder, sources)
        (parts / "trust_remote_code").write_text(settings.trust_remote_code)
        write_record(parts, request, hub.commits)
        # Startup detects a layout by its first part, so that part is installed last.
        of_layout = reversed(LAYOUTS[wanted.family].parts)
        install(parts, root, [RECORD, "trust_remote_code", *of_layout])
    logger.info("The model is in %s: %s, %s", root.absolute(), answer["family"], answer["gives"])


def _refuse_other_family(root: Path, family: Family) -> None:
    for other, layout in LAYOUTS.items():
        if other != family and (root / layout.parts[0]).exists():
            raise DownloadError(
                f"{root.absolute()} already holds another family, {other}: "
                "empty it, or point MODELS_DIR elsewhere"
            )


def _finish(
    settings: DownloadSettings, family: Family, folder: Path, sources: Mapping[str, Path]
) -> Answer:
    job = {
        "family": family,
        "folder": str((folder / "parts").absolute()),
        "sources": {part: str(path.absolute()) for part, path in sources.items()},
        "scratch": str((folder / "hub").absolute()),
        "trust": settings.trusts_remote_code,
    }
    environment = settings.check_environment(folder.absolute())
    try:
        return run_in_subprocess(
            _SAVING, job, called="the check of the model", environment=environment
        )
    except JobKilledError as error:
        raise DownloadError(str(error)) from error
    except JobError as error:
        raise DownloadError(f"the downloaded model does not work: {error}") from error


def convert(settings: DownloadSettings) -> None:
    """Convert the model in the model folder for OpenVINO, so that startup does not have to.

    A model that cannot be converted is logged and left as it is: torch will serve it.

    Raises:
        ModelFolderError: there is no model.
        ConfigurationError: a setting is invalid.
    """
    service = read(Settings)
    if service.runtime != "openvino":
        return
    folder = detect(settings.models_dir or Path("./models"))
    if is_served_as_it_is(folder):
        return
    from backends.conversion.conversion_cache import converted

    forbid_hub_access()
    try:
        converted(folder, options_for(folder, service), written=True)
    except ConversionError as error:
        logger.warning("Not converted for OpenVINO, so torch will serve it, slower: %s", error)


def settings_for_tag(settings: DownloadSettings, tag: str) -> DownloadSettings:
    """Return settings for a model of the catalogue, in place of the environment's model.

    Raises:
        DownloadError: the tag is unknown.
    """
    model = catalogue.find(tag)
    ends = ("_name", "_pretrained", "_type")
    names: dict[str, object] = {
        field: "" for field in DownloadSettings.model_fields if field.endswith(ends)
    }
    switches = ("use_", "onnx_")
    names |= {field: False for field in DownloadSettings.model_fields if field.startswith(switches)}
    names |= {name.lower(): value for name, value in model.variables.items()}
    root = settings.models_dir or Path("models") / tag
    return settings.model_copy(update={**names, "models_dir": root})


def main(arguments: Sequence[str] | None = None) -> None:
    """Download, convert or export the model; on failure, print one sentence and exit with 1."""
    parser = argparse.ArgumentParser(
        description="Fetch the model that the environment names into ./models (MODELS_DIR)."
    )
    parser.add_argument(
        "--model", metavar="TAG", help="a tag of fetch/catalogue.json instead, into ./models/TAG"
    )
    parser.add_argument(
        "--convert",
        action="store_true",
        help="download nothing: convert the model that is there already for OpenVINO",
    )
    parser.add_argument(
        "--export",
        metavar="FOLDER",
        type=Path,
        help="convert the model, and copy only the files that serve without torch to this folder",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request
    for doubt in doubts():
        logger.warning("%s", doubt)
    try:
        settings = read(DownloadSettings)
        settings = settings_for_tag(settings, options.model) if options.model else settings
        if not options.convert:
            download(settings)
        if options.export:
            folder = detect(settings.models_dir or Path("./models"))
            export(folder, options_for(folder, read(Settings)), options.export)
        else:
            convert(settings)
    except StartupError as error:
        sys.exit(f"Fatal: {error}")
    except KeyboardInterrupt:
        sys.exit("Fatal: interrupted; nothing half-done is left in the model folder")


if __name__ == "__main__":
    main()
