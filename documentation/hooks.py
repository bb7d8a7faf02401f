"""Hooks of MkDocs: documents of the repository's root become pages, and links go between both.

On GitHub a link names a file of the repository; on the site it names a page. So README.md is the
first page, DESIGN.md the page `architecture`, and links are written anew on the way. The site also
gets the one script that Material takes from another host: it lets the search work from a folder.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

# Documents outside of docs/, and the pages that are made of them.
PAGES = {
    "README.md": "index.md",
    "DESIGN.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "LICENSE": "licence.md",
}
_HERE = posixpath.dirname(__file__)
_SHIM = "assets/iframe-worker.js"
_SHIM_ELSEWHERE = "https://unpkg.com/iframe-worker/shim"
_CODE_OR_LINK = re.compile(
    r"(?P<code>^( *)```.*?^\2```$|`[^`\n]+`)|(?<=\]\()(?P<link>[^)\s]+)(?=\))",
    re.MULTILINE | re.DOTALL,
)


def on_files(files: Any, config: Any) -> Any:
    """Add the documents of the repository's root to the site's files, and the script."""
    from mkdocs.structure.files import File  # only there where the site is built

    root = posixpath.dirname(config["config_file_path"])
    for document, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=posixpath.join(root, document)))
    script = posixpath.join(_HERE, "iframe-worker.js")
    files.append(File.generated(config, _SHIM, abs_src_path=script))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Write the links of a page as the site has them."""
    return relinked(markdown, page.file.src_uri)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Take the script from the site itself."""
    return output.replace(_SHIM_ELSEWHERE, posixpath.relpath(_SHIM, posixpath.dirname(page.url)))


def on_post_template(output_content: str, **_: Any) -> str:
    """Take the script from the site itself in 404.html, which has no place of its own."""
    return output_content.replace(_SHIM_ELSEWHERE, f"/{_SHIM}")


def relinked(markdown: str, page: str) -> str:
    """Write links between files of the repository as links between pages of the site."""
    documents = {made: document for document, made in PAGES.items()}
    source = documents.get(page, f"docs/{page}")

    def on_the_site(found: re.Match[str]) -> str:
        link = found["link"]
        if link is None or re.match(r"https?:|#", link):
            return found[0]
        name, hash_, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), name))
        made = PAGES.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(made, posixpath.dirname(page) or ".") + hash_ + anchor

    return _CODE_OR_LINK.sub(on_the_site, markdown)
