"""The documentation: short where it must be, with links that lead somewhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import errors
from config import Settings
from documentation import drawings, hooks, settings
from tests.service import ROOT
from web.errors import STATUS

README = ROOT / "README.md"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "DESIGN.md", "CHANGELOG.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md")),
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


def test_the_table_of_places_names_files_and_functions_that_exist() -> None:
    text = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:where|which) .*? \| (.*) \|$", text, re.MULTILINE)

    assert len(rows) >= 12
    for row in rows:
        spans = re.findall(r"`([^`]+)`", row)
        files = [ROOT / span for span in spans if span.endswith((".py", "/"))]
        names = [span.rpartition(".")[2] for span in spans if not span.endswith((".py", "/"))]
        code = "".join(path.read_text(encoding="utf-8") for path in files if path.is_file())

        assert files, row
        assert all(path.exists() for path in files), row
        assert all(re.search(rf"(?:def|class) {name}\b|^{name}\b", code, re.M) for name in names), (
            row
        )


def test_the_glossary_of_the_code_names_classes_that_exist() -> None:
    text = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
    glossary = text.partition("## Glossary")[2].partition("### Words that stay")[0]
    words = " ".join(re.findall(r"^\| ([^|]*) \|", glossary, re.MULTILINE))
    folders = (ROOT / name for name in ("web", "inference", "backends"))
    code = "".join(path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py"))

    named = set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", words))
    assert len(named) > 15
    assert named <= set(re.findall(r"^class (\w+)", code, re.MULTILINE))


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
        re.findall(r"[\w/-]+\.md", menu)
    )


def sentences_of(text: str) -> Iterator[str]:
    """Split prose into sentences; a span of code is one word, and tables and headings are none."""
    text = re.sub(r"<!--.*?-->", "", _CODE_BLOCK.sub("\n\n", text), flags=re.DOTALL)
    text = re.sub(r"^\s*(\||#).*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*([-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n", text):
        plain = re.sub(r"``.*?``|`[^`]*`", "code", " ".join(paragraph.split()))
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", plain).replace("*", "")
        yield from filter(str.strip, re.split(r"(?<=[.!?])[\")]*\s+(?=[A-Z(\"\d]|code\b)", plain))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nearly_all_sentences_are_short(document: Path) -> None:
    sentences = list(sentences_of(document.read_text(encoding="utf-8")))
    long = [one for one in sentences if len(re.findall(r"\S*\w\S*", one)) > 25]

    assert len(long) <= 0.05 * len(sentences), "\n".join(long)


def test_a_long_sentence_is_found() -> None:
    rest = f"| {'cell ' * 30} |\n\n```sh\n{'x ' * 30}\n```\n"
    text = f"One. Two words.\n\n- {'word ' * 26}end.\n\n{rest}"

    assert [len(one.split()) for one in sentences_of(text)] == [1, 2, 27]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_word_for_one_thing(document: Path) -> None:
    prose = re.sub(r"``.*?``|`[^`]*`", "", prose_of(document))

    assert re.findall(r"(?i)\bpictures?\b|\bmodels? of texts\b(?! and)", prose) == []


# What the service says, and where.
SPEAKING = ["app.py", "config.py", "vectorizer.py", "download.py"]
SPEAKING_FOLDERS = ["web", "inference", "backends", "fetch"]
STARTUP_ERRORS = {kind.__name__ for kind in errors.StartupError.__subclasses__()}


def messages() -> Iterator[str]:
    """Find the longest fixed part of each startup error and each warning in the code."""
    files = [ROOT / name for name in SPEAKING]
    files += [path for folder in SPEAKING_FOLDERS for path in (ROOT / folder).rglob("*.py")]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and says(node.func):
                yield from fixed_part(node.args[0])


def says(called: ast.expr) -> bool:
    if isinstance(called, ast.Attribute):
        return called.attr in {"warning", "error", "critical"} and "logger" in ast.unparse(called)
    return isinstance(called, ast.Name) and called.id in STARTUP_ERRORS


def fixed_part(sentence: ast.expr) -> Iterator[str]:
    if isinstance(sentence, ast.JoinedStr):
        parts = [part.value for part in sentence.values if isinstance(part, ast.Constant)]
    else:
        parts = [sentence.value] if isinstance(sentence, ast.Constant) else []
    fixed = [piece for part in parts for piece in re.split(r"%[sd]", str(part))]
    if fixed and len(longest := max(fixed, key=len).strip(" :.")) > 6:
        yield longest


def test_every_message_of_a_start_and_every_warning_is_explained() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    found = set(messages())

    assert len(found) > 80
    assert [one for one in sorted(found) if one not in page] == []


def test_every_status_is_explained() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE)

    assert set(map(str, STATUS.values())) <= {code for row in rows for code in row.split(", ")}


def test_the_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    why = prose_of(README).partition("## Why")[2].partition("## ")[0]
    figures = set(re.findall(r"\d+(?:\.\d+)?", re.sub(r"`[^`]*`", "", why)))
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")

    assert len(figures) > 5
    assert figures <= set(re.findall(r"\d+(?:\.\d+)?", page))


def test_files_that_the_decisions_name_are_there() -> None:
    names = {path.as_posix() for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    for page in (ROOT / "docs/decisions").glob("*.md"):
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text(encoding="utf-8")):
            assert any(path.endswith(f"/{name}") for path in names), f"{page.name}: {name}"


def test_the_drawings_are_of_the_figures_of_today() -> None:
    for name, drawing in drawings.drawings().items():
        assert (drawings.ASSETS / name).read_text("utf-8") == drawing, "make docs-update"


def test_the_chart_takes_its_figures_from_the_table() -> None:
    rows = drawings.table_of("By precision")

    assert len(rows) == 12
    assert {row[1] for row in rows} == {"`float32`", "`bfloat16`", "`int8`"}
    assert "1,335 a second" in drawings.precision_chart()


@pytest.mark.parametrize("name", ["page.png", "contact-sheet.png", *drawings.drawings()])
def test_pictures_of_the_documentation_are_small_and_shown(name: str) -> None:
    assert (drawings.ASSETS / name).stat().st_size < 150_000
    assert any(f"assets/{name})" in page.read_text("utf-8") for page in DOCUMENTS)
