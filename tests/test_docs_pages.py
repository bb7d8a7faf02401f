"""The documentation: short where it must be, with links that lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import Settings
from documentation import hooks, settings
from tests.service import ROOT

README = ROOT / "README.md"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "DESIGN.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_CODE_BLOCK = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose_of(document: Path) -> str:
    """Return a document without its blocks of code."""
    return _CODE_BLOCK.sub("", document.read_text(encoding="utf-8"))


def anchors_of(document: Path) -> Iterator[str]:
    """Name the headings of a document as GitHub and MkDocs do."""
    for heading in re.findall(r"^#+ (.*)$", prose_of(document), re.MULTILINE):
        yield re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_the_readme_is_one_page() -> None:
    text = README.read_text(encoding="utf-8")

    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1000


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in _LINK.findall(prose_of(document)):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document

        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_every_page_can_be_found_from_the_readme() -> None:
    linked = {name.partition("#")[0] for name in _LINK.findall(prose_of(README))}
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")}

    assert pages <= linked


def test_the_tables_of_settings_are_those_of_the_code() -> None:
    page = settings.PAGE.read_text(encoding="utf-8")

    assert page.endswith(settings.tables()), "make docs-update"
    assert settings.GROUPS.keys() <= Settings.model_fields.keys()


@pytest.mark.parametrize(
    ("page", "link", "on_the_site"),
    [
        ("index.md", "docs/models.md#models-by-name", "models.md#models-by-name"),
        ("index.md", "LICENSE", "licence.md"),
        ("decisions/index.md", "../../DESIGN.md", "../architecture.md"),
        ("decisions/batching.md", "../api.md", "../api.md"),
        ("models.md", "#bring-your-own-model", "#bring-your-own-model"),
        ("architecture.md", "https://weaviate.io", "https://weaviate.io"),
    ],
)
def test_links_are_written_anew_for_the_site(page: str, link: str, on_the_site: str) -> None:
    assert hooks.relinked(f"See [it]({link}).", page) == f"See [it]({on_the_site})."


def test_links_in_code_stay_as_they_are() -> None:
    code = "`[it](docs/api.md)` and\n```md\n[it](docs/api.md)\n```\n"

    assert hooks.relinked(code, "index.md") == code


def test_the_site_has_every_page_in_its_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")}

    assert {str(page) for page in pages} | set(hooks.PAGES.values()) == set(
        re.findall(r"[\w/]+\.md", menu)
    )
