"""Describes the machine of a run: processor, versions, commit, settings."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.service import ROOT
from config import Settings, is_secret
from machine import usable_cores

# CPU flags that matter for the speed of matrix products.
_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16",
          "amx_int8", "amx_fp16")  # fmt: skip
_PACKAGES = ("torch", "transformers", "sentence-transformers", "open_clip_torch", "openvino",
             "onnxruntime", "pillow", "fastapi", "uvicorn", "numpy")  # fmt: skip


def describe() -> dict[str, object]:
    """Return facts about machine and software, for the record of a run."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _processor(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "gpus": _lines("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": "".join(_lines("git", "-C", str(ROOT), "rev-parse", "HEAD")),
        "uncommitted_files": len(_lines("git", "-C", str(ROOT), "status", "--porcelain")),
        "settings": service_settings(),
    }


def service_settings() -> dict[str, str]:
    """Return the service's variables in this environment, without secrets."""
    fields = Settings.model_fields.items()
    names = [name.upper() for name, field in fields if not is_secret(field)]
    names.append("OMP_NUM_THREADS")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def import_seconds() -> float:
    """Return the seconds that a new process takes to import the model libraries."""
    started_s = time.perf_counter()
    subprocess.run((sys.executable, "-c", "import torch, transformers"), check=True, cwd=ROOT)
    return time.perf_counter() - started_s


def _processor() -> dict[str, object]:
    text = Path("/proc/cpuinfo").read_text()
    return {
        "model": _field(text, "model name"),
        "family": _field(text, "cpu family"),
        "cores": usable_cores(),
        "flags": [flag for flag in _FLAGS if flag in _field(text, "flags").split()],
        "load_before": os.getloadavg()[0],
    }


def _field(cpuinfo: str, name: str) -> str:
    found = re.search(rf"^{name}\s*: (.*)$", cpuinfo, re.MULTILINE)
    return found[1] if found else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _lines(*command: str) -> list[str]:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []
