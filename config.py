"""Settings: the only place that reads the environment.

Each field is one variable of the same name in capitals; its description is the text of the README's
table. Precedence: environment > default. An empty variable counts as unset, as Docker's unset build
arguments arrive as empty strings.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from inference.errors import ConfigurationError

VERSION = "0.1.0"


def is_on(value: object) -> bool:
    """Tell whether a switch is on: `1` or `true` in any case; anything else is off.

    Source: the reference container's rule for ENABLE_CUDA, kept for every switch.
    """
    return str(value).strip().lower() in {"1", "true"}


Switch = Annotated[bool, BeforeValidator(is_on)]


class Settings(BaseSettings):
    """What an operator can set when the service starts."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    models_dir: Path = Field(
        default=Path("./models"), description="folder that holds the model, in the layouts below"
    )
    text_mode: Literal["trained", "reference"] = Field(
        default="trained",
        description="`trained`: texts as the model learnt them; `reference`: as "
        "`semitechnologies/multi2vec-clip` makes them (differs for SigLIP and MetaCLIP 2)",
    )
    enable_cuda: Switch = Field(default=False, description="`1` or `true`: use the GPU")
    cuda_core: str = Field(
        default="cuda:0",
        pattern=r"^cuda(:\d+)?$",
        description="the GPU to use, where it is enabled",
    )
    trust_remote_code: Switch = Field(
        default=False,
        description="`1` or `true`: let a model folder run Python code of its own; "
        "the file `trust_remote_code` in the model folder beats it",
    )
    max_batch_size: int = Field(
        default=32, ge=1, le=1024, description="most items in one forward pass of the model"
    )
    vector_cache_size: int = Field(
        default=10_000,
        ge=0,
        description="vectors to remember, so that an equal text or image is answered from memory "
        "(about 25 MB at the default and 512 dimensions); `0` remembers none",
    )
    max_image_pixels: int = Field(
        default=100_000_000, ge=1, description="largest width x height of an image"
    )
    host: str = Field(default="0.0.0.0", description="address to listen on")  # noqa: S104 - a container serves every interface
    port: int = Field(default=8080, ge=0, le=65535, description="port to listen on")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`debug`, `info`, `warning` or `error`"
    )


class DownloadSettings(BaseSettings):
    """What names the model that an image build fetches."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True)

    models_dir: Path = Field(default=Path("./models"), description="folder to write into")
    clip_model_name: str = Field(default="", description="CLIP for the pictures")
    clip_model_revision: str | None = Field(default=None, description="its revision on the hub")
    text_model_name: str = Field(default="", description="model for the texts")
    text_model_revision: str | None = Field(default=None, description="its revision on the hub")
    clip_model_type: str = Field(
        default="", description="`openai` takes the pair above for an OpenAI CLIP"
    )
    open_clip_model_name: str = Field(default="", description="OpenCLIP architecture")
    open_clip_pretrained: str = Field(default="", description="OpenCLIP pretrained tag")
    siglip_model_name: str = Field(default="", description="SigLIP or SigLIP 2")
    siglip_model_revision: str | None = Field(default=None, description="its revision on the hub")
    colpali_engine_model_name: str = Field(default="", description="ModernVBERT, not yet supported")
    trust_remote_code: Switch = Field(
        default=False, description="`1` or `true`: let the model run Python code of its own"
    )


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


def read(kind: type[AnySettings]) -> AnySettings:
    """Read one kind of settings from the environment.

    Raises:
        ConfigurationError: a variable has a value that does not fit; the message names it.
    """
    try:
        return kind()
    except ValidationError as error:
        faults = [f"{str(e['loc'][0]).upper()}={e['input']!r}: {e['msg']}" for e in error.errors()]
        raise ConfigurationError("; ".join(faults)) from error


def forbid_hub_access() -> None:
    """Keep the model libraries off the network: what is not on disk does not exist.

    Must run before any of them is imported, as they read these variables once.
    """
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TOKENIZERS_PARALLELISM="false",  # one lane thread tokenises; a second pool would compete
    )


def usable_cores() -> int:
    """Count the cores that this process may use: its affinity, and the container's CPU limit.

    Source: cgroup v2's `cpu.max`, a quota and a period in microseconds; Kubernetes sets it from
    `limits.cpu`, and neither Python nor torch looks at it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = Path("/sys/fs/cgroup/cpu.max")
    quota, _, period = limit.read_text().partition(" ") if limit.is_file() else ("max", "", "")
    return max(1, min(cores or 1, -(-int(quota) // int(period)) if quota != "max" else 1 << 16))


def limit_compute_threads(cores: int) -> None:
    """Keep the number libraries to these cores; must run before any of them is imported."""
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))
