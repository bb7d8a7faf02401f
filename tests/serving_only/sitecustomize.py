"""On PYTHONPATH, this lets a process import the packages of requirements-serve.txt and no others.

So it finds what is there where only these are installed, whatever else is.
"""

import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import ModuleType

_LOCK = Path(__file__).parents[2] / "requirements-serve.txt"
_INSTALLED = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def _modules_of(distribution: str) -> Iterator[str]:
    try:
        for path in files(distribution) or []:
            yield path.parts[0].partition(".")[0]
    except PackageNotFoundError:  # of other machines
        pass


_LOCKED = re.findall(r"^([\w.-]+)==", _LOCK.read_text("utf-8"), re.MULTILINE)
_ALLOWED = {module for name in _LOCKED for module in _modules_of(name)}


class _ServingOnly(PathFinder):
    """Finds nothing else among what is installed."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = super().find_spec(fullname, path, target)  # type: ignore[arg-type]
        if spec is None or fullname.partition(".")[0] in _ALLOWED:
            return spec
        places = [spec.origin or "", *(spec.submodule_search_locations or [])]
        return None if any(place.startswith(_INSTALLED) for place in places) else spec


sys.meta_path = [_ServingOnly if finder is PathFinder else finder for finder in sys.meta_path]
