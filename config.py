"""Settings: the only place that reads the environment.

Each field is one variable of the same name in capitals; its description is the text of the table of
docs/settings.md. Precedence: environment > default. An empty variable counts as unset, as Docker's
unset build arguments arrive as empty strings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from dotenv.parser import parse_stream
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from errors import ConfigurationError, describe_error

NAME = "multi2vec-clip-service"  # in `/meta` and in traces
VERSION = "0.1.0"


def is_on(value: object) -> bool:
    """Return whether a switch is on: `1` or `true` in any case; any other value is off.

    Source: the reference's rule for ENABLE_CUDA; here it holds for every switch.
    """
    return str(value).strip().lower() in {"1", "true"}


def _comma_separated(value: object) -> object:
    return _parts(value) if isinstance(value, str) else value


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in text.split(",")) if part)


def _lower_case(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _formats(value: object) -> object:
    return _comma_separated(value.upper() if isinstance(value, str) else value)


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [tuple(part.strip() for part in pair.split("=")) for pair in _parts(value)]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError("pairs such as alias=model, with commas between them")
    return tuple(pairs)


_IS_SWITCH = BeforeValidator(is_on)
Switch = Annotated[bool, _IS_SWITCH]
Tokens = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_comma_separated)]
Formats = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_formats)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]
Aliases = Annotated[tuple[tuple[str, str], ...], NoDecode, BeforeValidator(_pairs)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower_case)]
Revision = Annotated[str | None, Field(description="its branch, tag or commit on the hub")]


_CONFIG = SettingsConfigDict(
    env_ignore_empty=True,
    extra="ignore",
    frozen=True,
    allow_inf_nan=False,
    hide_input_in_errors=True,  # a URL may hold a password
)


class Settings(BaseSettings):
    """The settings of the service, each from the environment variable of its name."""

    model_config = _CONFIG

    models_dir: Path = Field(
        default=Path("./models"),
        description="folder that holds the model, in [one of these "
        "layouts](models.md#bring-your-own-model), or [a folder for each of several "
        "models](several-models.md)",
    )
    default_model: Names = Field(
        default=(),
        description="of several models: names, with commas between them; where several models "
        "fit a route, requests without a name get the first of these that does",
    )
    model_aliases: Aliases = Field(
        default=(),
        description="of several models: other names for `model` in a body, such as "
        "`text-embedding-3-small=minilm,rerank-v3.5=reranker`",
    )
    models_on_demand: Switch = Field(
        default=False,
        description="`1` or `true`, of several models: the first request for a model loads it, and "
        "not the start",
    )
    models_memory_bytes: int | None = Field(
        default=None,
        ge=1,
        description="most memory of models that are loaded on demand, each with its largest batch; "
        "the least recently used is unloaded for another. No limit where it is not set",
    )
    models_idle_s: float | None = Field(
        default=None,
        gt=0,
        description="seconds without a request after which a model that was loaded on demand is "
        "unloaded; never where it is not set",
    )
    text_mode: Literal["trained", "reference"] = Field(
        default="trained",
        description="`trained`: texts as the model learnt them; `reference`: as the container of "
        "`semitechnologies` makes them that this one replaces (differs for SigLIP, MetaCLIP 2 and "
        "DPR); of a reranker, whether scores are logits or from 0 to 1",
    )
    enable_cuda: Switch = Field(default=False, description="`1` or `true`: use the GPU")
    cuda_core: str = Field(
        default="cuda:0",
        description="the GPU to use, where it is enabled; several with commas between them, or "
        "`all`: a copy of the model on each",
    )
    precision: Literal["float32", "bfloat16", "float16", "int8"] | None = Field(
        default=None,
        description="[what is computed in](precision.md#runtime-and-precision): `float32`, the "
        "reference's vectors; `bfloat16` (GPUs, and CPUs with AMX or AVX512-BF16), `float16` "
        "(GPUs, and CPUs with AVX512-FP16) or `int8` (CPUs; fast ones by AMX or VNNI); unset, "
        "`float32`, unless the folder holds `int8` alone",
    )
    runtime: Literal["openvino", "torch"] = Field(
        default="openvino",
        description="what computes on a CPU: `openvino`, from a model that is converted once, or "
        "`torch`. GPUs are torch's",
    )
    runtime_cache_dir: Path | None = Field(
        default=None,
        description="folder for converted models; `converted` in `MODELS_DIR` where it is not set",
    )
    trust_remote_code: Switch = Field(
        default=False,
        description="`1` or `true`: let a model folder run Python code of its own; "
        "the file `trust_remote_code` in the model folder beats it",
    )
    t2v_transformers_direct_tokenize: Switch = Field(
        default=False,
        description="`1` or `true`: a text model reads a text in one piece, cut at 500 tokens, "
        "and not sentence by sentence",
    )
    use_query_passage_prefixes: Switch = Field(
        default=False,
        description="`1` or `true`: write the request's `task_type` in front of a text, for text "
        "models that have learnt it so (E5); the file `use_query_passage_prefixes` in the model "
        "folder beats it",
    )
    max_num_patches: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="SigLIP 2 NaFlex: most patches of an image, of 16x16 pixels; other numbers "
        "make other vectors. The checkpoint's (256) where it is not set",
    )
    max_image_tiles: int | None = Field(
        default=None,
        ge=1,
        description="ModernVBERT: most tiles that an image is read in; one that would have more "
        "is scaled down, which makes another vector. As many as the model was trained on (17) "
        "where it is not set",
    )
    max_read_pixels: int | None = Field(
        default=None,
        ge=32_768,  # the narrowest images have as many, or the model would not read them
        description="Qwen3-VL: most pixels that an image is read in; a larger one is scaled down, "
        "which makes another vector. As many as the model reads (1,843,200) where it is not set",
    )
    max_batch_size: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="most items in one forward pass of the model; more brings nothing on CPUs, "
        "where it only lets others wait longer; GPUs may like 64",
    )
    vector_cache_size: int = Field(
        default=10_000,
        ge=0,
        description="vectors to remember, so that an equal text or image is answered from memory "
        "(about 25 MB at the default and 512 dimensions); `0` remembers none",
    )
    vector_cache_url: SecretStr | None = Field(
        default=None,
        description="where vectors are kept as well, so that they outlive the process and replicas "
        "[share them](scaling.md#vectors-that-are-shared): `file:///a/folder`, `redis://` or "
        "`rediss://` (Redis, Valkey); never shown with its password",
    )
    vector_cache_secret: SecretStr | None = Field(
        default=None,
        description="key of the digest under which each of these vectors is kept; without a key, "
        "anyone who can write to the store can forge vectors",
    )
    vector_cache_timeout_ms: float = Field(
        default=10,
        gt=0,
        description="time in which that store answers, in milliseconds; otherwise the vector is "
        "computed",
    )
    vector_cache_max_bytes: int = Field(
        default=1_000_000_000,
        ge=64_000_000,
        description="most bytes of the store in a folder, where the oldest vectors go first; Redis "
        "and Valkey have `maxmemory`",
    )
    max_request_bytes: int = Field(
        default=100_000_000, ge=1, description="largest body of a request"
    )
    max_request_items: int = Field(
        default=256,
        ge=1,
        description="most texts and images in one request; the limit of `/v1/embeddings` is 2,048",
    )
    max_request_documents: int = Field(
        default=1_000, ge=1, description="most documents that one request may have ranked"
    )
    max_text_chars: int = Field(
        default=100_000,
        ge=1,
        description="longest text, in characters, or where a model reads sentence by sentence the "
        "longest sentence (such texts have at most a million characters and 10,000 sentences); of "
        "a shorter one the model reads what it can",
    )
    max_image_bytes: int = Field(default=50_000_000, ge=1, description="largest image file")
    max_image_pixels: int = Field(
        default=100_000_000,
        ge=1,
        description="largest width x height of an image, as it is and as the model would scale it; "
        "also of all images that are decoded at the same moment",
    )
    image_formats: Formats = Field(
        default=(
            *("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000"),
            *("ICO", "PPM", "TGA", "QOI", "HEIF"),
        ),
        description="formats to accept, by Pillow's names and with commas between them; `all` "
        "accepts whatever Pillow reads, as the reference does. HEIF (phones' HEIC) needs "
        "`pip install pillow-heif`",
    )
    max_queue_items: int = Field(
        default=4096, ge=1, description="most texts, and most images, that wait or are computed"
    )
    max_queue_bytes: int = Field(
        default=256_000_000,
        ge=1,
        description="most bytes of all requests that are being read, wait or are computed",
    )
    request_timeout_s: float = Field(
        default=45,
        gt=0,
        description="longest time from a request's first byte to its answer, in seconds; what "
        "cannot be answered in this time is refused at once. Weaviate gives up after 50",
    )
    drain_delay_s: float = Field(
        default=0,
        ge=0,
        description="seconds between SIGTERM, when `ready` turns 503, and the end of listening; "
        "half a second at least, for what was already sent",
    )
    embeddings_dimensions: int | None = Field(
        default=None,
        ge=1,
        description="`dimensions` of `/v1/embeddings` for clients that cannot send it: vectors are "
        "cut to so many numbers and have length 1, where the model allows it",
    )
    embeddings_token_ids: Literal["reject", "accept"] = Field(
        default="reject",
        description="token ids in place of texts, to `/v1/embeddings`, `/embed` and `POST /`: "
        "`reject`, or `accept`: they are ids of this model's own vocabulary",
    )
    served_model_name: str = Field(
        default="",
        description="the model's name on the page, in `/meta`, `/v1/models`, `/api/tags`, `/info`, "
        "the metrics and the log; where it is not set, that by which `download.py` fetched it, or "
        "else the folder's",
    )
    authentication_allowed_tokens: Tokens = Field(
        default=(),
        description="tokens, with commas between them, of which every request but the probes must "
        "bring one, as `Bearer` or as the password of HTTP Basic; without any, no token is needed. "
        "Weaviate and `smoke_test.py` send [what their URL says](quickstart.md#a-token), a "
        "browser asks for a user and a password",
    )
    authentication_allowed_tokens_file: Path | None = Field(
        default=None,
        description="file of more such tokens, with commas or line breaks between them, such as a "
        "mounted Secret; read again every 10 s. One that cannot be read or is empty ends a start; "
        "later it leaves the tokens as they were, and the log warns",
    )
    metrics_without_token: Switch = Field(
        default=False, description="`1` or `true`: `GET /metrics` asks for no token"
    )
    forwarded_allow_ips: str = Field(
        default="127.0.0.1",
        description="addresses and networks of proxies, with commas between them, or `*`: only "
        "their `X-Forwarded-For` says which client the log names",
    )
    host: str = Field(
        default="0.0.0.0",  # noqa: S104 - a container serves every interface
        description="address to listen on; `::` listens on all addresses of IPv6 and IPv4",
    )
    port: int = Field(default=8080, ge=0, le=65535, description="port to listen on")
    ssl_certfile: Path | None = Field(
        default=None,
        description="certificate in PEM, with those between it and its root: the port then speaks "
        "TLS (`https://`). A new one is read at the next start",
    )
    ssl_keyfile: Path | None = Field(
        default=None, description="its private key, unencrypted, where it is not in the same file"
    )
    debug_page: Switch = Field(
        default=True, description="`1` or `true`: a page for browsers at `/` to try the model on"
    )
    log_level: LogLevel = Field(
        default="info",
        description="`debug` (a line for every request), `info`, `warning` or `error`, in any case",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="`text`, or `json`: an object a line"
    )
    otel_exporter_otlp_endpoint: str = Field(
        default="",
        description="where OpenTelemetry's [traces](operating.md#traces) are sent, such as "
        "`http://collector:4318`; the other variables `OTEL_...` hold, too",
    )
    otel_exporter_otlp_traces_endpoint: str = Field(
        default="", description="the same with its whole path"
    )
    otel_exporter_otlp_protocol: str = Field(
        default="http/protobuf",
        description="`http/protobuf`, or `grpc` with `opentelemetry-exporter-otlp-proto-grpc`",
    )
    otel_exporter_otlp_traces_protocol: str = Field(
        default="", description="the same for traces alone; it goes before the other"
    )
    otel_traces_exporter: str = Field(
        default="",
        description="`otlp`, the default if an address is set; `console`; or `none`",
    )
    otel_sdk_disabled: Switch = Field(
        default=False, description="`true`: no traces, whatever else is set"
    )

    @property
    def trace_exporters(self) -> tuple[str, ...]:
        """OpenTelemetry's names of the exporters to send traces to; empty if tracing is off."""
        address = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint
        asked = self.otel_traces_exporter or ("otlp" if address else "")
        protocol = self.otel_exporter_otlp_traces_protocol or self.otel_exporter_otlp_protocol
        otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
        names = () if self.otel_sdk_disabled else _parts(asked)
        return tuple(otlp if name == "otlp" else name for name in names if name != "none")


# Settings that a model's own `settings.env` may have, if there are several models.
OF_A_MODEL = (
    *("text_mode", "enable_cuda", "cuda_core", "precision", "runtime", "trust_remote_code"),
    *("t2v_transformers_direct_tokenize", "use_query_passage_prefixes", "max_num_patches"),
    *("max_image_tiles", "max_read_pixels", "max_batch_size", "max_request_items"),
    *("max_request_documents", "max_text_chars", "max_queue_items", "embeddings_dimensions"),
    "embeddings_token_ids",
)
SETTINGS_FILE = "settings.env"
_SWITCH_VALUES = {"", "1", "true", "0", "false"}  # any other value is off

_TOKENS = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}  # huggingface_hub reads both
# Settings of the reference's containers that have no effect here: memory and processes of GPUs, a
# cache, threads, and how a model is loaded.
_WITHOUT_EFFECT = (
    *("CUDA_PER_PROCESS_MEMORY_FRACTION", "USE_SENTENCE_TRANSFORMERS_MULTI_PROCESS"),
    *("ENABLE_CACHE", "WORKERS", "FORCE_AUTOMODEL", "USE_QUERY_PROMPT", "ONNX_CPU"),
)
_OF_OTHERS = {"CUDA_HOME", "SSL_CERT_FILE"}  # variables of CUDA and OpenSSL, similar to a setting
_OF_A_SERVICE = "_PORT"  # Kubernetes sets such variables for services, such as CUDA_PORT
_MIN_LETTERS, _MAX_EDITS = 8, 2  # shorter names are similar to too many others
_NO_HUB = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",  # texts are tokenized one by one; its threads would compete
}


class DownloadSettings(BaseSettings):
    """The settings of download.py: the reference container's variables, and revisions."""

    model_config = _CONFIG

    models_dir: Path | None = Field(
        default=None,
        description="folder to write into; `./models`, or `./models/<tag>` with `--model <tag>`",
    )
    clip_model_name: str = Field(
        default="", description="model for the images; equal to `TEXT_MODEL_NAME` if it does both"
    )
    clip_model_revision: Revision = None
    text_model_name: str = Field(default="", description="model for the texts")
    text_model_revision: Revision = None
    clip_model_type: str = Field(
        default="",
        description="`openai`: the pair above is an OpenAI CLIP, as it is for names that begin "
        "with `openai/` or `facebook/metaclip`",
    )
    open_clip_model_name: str = Field(
        default="", description="OpenCLIP architecture; counts with `OPEN_CLIP_PRETRAINED` only"
    )
    open_clip_pretrained: str = Field(default="", description="OpenCLIP pretrained tag")
    open_clip_revision: Revision = None
    siglip_model_name: str = Field(default="", description="SigLIP or SigLIP 2, NaFlex too")
    siglip_model_revision: Revision = None
    model_name: str = Field(
        default="",
        description="a text model, or a reranker, as its configuration says; counts where no "
        "variable above names one",
    )
    model_revision: Revision = None
    use_query_passage_prefixes: Switch = Field(
        default=False,
        description="`1` or `true`: write the request's `task_type` in front of its texts, when it "
        "is served",
    )
    use_sentence_transformers_vectorizer: Switch = Field(
        default=False,
        description="`1` or `true`: keep it as a sentence-transformers model, as models of the "
        "types `model2vec` and `t5` always are",
    )
    onnx_runtime: Switch = Field(
        default=False, description="`1` or `true`: read it as the `-onnx` images do, in int8"
    )
    colpali_engine_model_name: str = Field(
        default="", description="ModernVBERT; the configs of the towers that it names come along"
    )
    colpali_engine_model_revision: Revision = None
    qwen_engine_model_name: str = Field(
        default="", description="Qwen3-VL-Embedding, with its tokenizer and template"
    )
    qwen_engine_model_revision: Revision = None
    trust_remote_code: str = Field(
        default="False",
        description="`1` or `true`: let the model run Python code of its own, here and when it "
        "is served",
    )
    hf_token: SecretStr | None = Field(
        default=None, description="token of the hub, for gated and private models; never written"
    )

    @property
    def trusts_remote_code(self) -> bool:
        """Whether the model may run Python code of its own."""
        return is_on(self.trust_remote_code)

    def check_environment(self, scratch: Path) -> dict[str, str]:
        """Return the environment for checking a downloaded model, without tokens and network."""
        kept = {name: value for name, value in os.environ.items() if name not in _TOKENS}
        caches = {"HF_HUB_CACHE": scratch / "hub", "HF_MODULES_CACHE": scratch / "modules"}
        return {**kept, **_NO_HUB, **{name: str(path) for name, path in caches.items()}}


AnySettings = TypeVar("AnySettings", bound=BaseSettings)


def read(kind: type[AnySettings]) -> AnySettings:
    """Read settings from the environment.

    Raises:
        ConfigurationError: the value of a variable is invalid; the message names it.
    """
    try:
        return kind()
    except ValidationError as error:
        raise ConfigurationError(_told(kind, error)) from error


def settings_of(folder: Path, settings: Settings) -> Settings:
    """Return the settings of one of several models: values in its `settings.env` come first.

    The environment has the values for all models. TRUST_REMOTE_CODE counts only in the model's own
    file.

    Raises:
        ConfigurationError: the file cannot be read, or has a setting or value that it may not have.
    """
    path = folder / SETTINGS_FILE
    own: dict[str, object] = {
        "models_dir": folder,
        "served_model_name": folder.name,
        "trust_remote_code": False,
    }
    try:
        # Docker mounts an empty folder for a file that does not exist, and a link may be broken.
        text = path.read_text("utf-8-sig") if path.exists() or path.is_symlink() else ""
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {describe_error(error)}") from error
    for name, value in _bindings(path, text):
        if name.lower() not in OF_A_MODEL:
            allowed = ", ".join(OF_A_MODEL).upper()
            raise ConfigurationError(f"{path}: {name} is no setting of a single model: {allowed}")
        is_switch = _IS_SWITCH in Settings.model_fields[name.lower()].metadata
        if is_switch and value.lower() not in _SWITCH_VALUES:
            raise ConfigurationError(f"{path}: {name}: 1, true, 0 or false, and not {value!r}")
        if value:  # an empty value counts as unset, as in the environment
            own[name.lower()] = value
    try:
        return Settings.model_validate(settings.model_dump() | own)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_told(Settings, error)}") from error


def _bindings(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a file in the form of Docker's and Compose's `.env`.

    Raises:
        ConfigurationError: a line is neither a setting nor a comment.
    """
    for key, value, original, _ in parse_stream(StringIO(text)):
        line = original.string.strip()
        if key is not None and value is not None:
            yield key, value
        elif line and not line.startswith("#"):
            number = original.line + original.string.partition(line)[0].count("\n")
            raise ConfigurationError(
                f"{path}, line {number}: {line!r} sets nothing: write NAME=value, or begin the "
                "line with # to turn it off"
            )


# The expected value, by pydantic's error type.
_EXPECTED = {
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "{le} or less",
    "literal_error": "{expected}",
}
_UNITS = {
    "bytes": " of bytes",
    "s": " of seconds",
    "ms": " of milliseconds",
    "chars": " of characters",
}


def is_secret(field: FieldInfo) -> bool:
    """Return whether the value of a setting must never be shown."""
    return "SecretStr" in str(field.annotation)


def _told(kind: type[BaseSettings], error: ValidationError) -> str:
    """Return the faults of settings: the expected value, and the given one unless it is secret."""
    told = []
    for fault in error.errors():
        name = str(fault["loc"][0])
        field, words = kind.model_fields[name], _EXPECTED.get(fault["type"])
        message = fault["msg"].removeprefix("Value error, ")
        expected = words.format(**fault.get("ctx", {})) if words else message
        if expected.endswith("number"):
            expected += _UNITS.get(name.rpartition("_")[2], "")
            expected += "" if field.default is None else f", such as {field.default}"
        if not is_secret(field):
            expected += f", and not {fault['input']!r}"
        told.append(f"{name.upper()}: {expected}")
    return "; ".join(told)


def doubts() -> list[str]:
    """Return a warning for each variable that has no effect, or an unexpected effect.

    Warnings do not contain values.
    """
    switches = {
        name.upper()
        for kind in (Settings, DownloadSettings)
        for name, field in kind.model_fields.items()
        if _IS_SWITCH in field.metadata
    }
    found = [
        f"{name} is no setting, and does nothing: is {near} meant?"
        for name in sorted(os.environ)
        if (near := _misspelt(name))
    ]
    found += [
        f"{name} is off: of all values only 1 and true switch it on"
        for name in sorted(switches)
        if os.environ.get(name, "").strip().lower() not in _SWITCH_VALUES
    ]
    if unused := [name for name in _WITHOUT_EFFECT if os.environ.get(name)]:
        message = "No effect here, and none is needed (see docs/migrating.md)"
        found.append(f"{message}: {', '.join(unused)}")
    return found


def _misspelt(name: str) -> str | None:
    """Return the setting that a variable may be a misspelling of; None if there is none."""
    kinds = (Settings, DownloadSettings)
    known = {field.upper() for kind in kinds for field in kind.model_fields}.union(_WITHOUT_EFFECT)
    if name.upper() in known | _OF_OTHERS | _TOKENS or name.endswith(_OF_A_SERVICE):
        return None
    near = [
        (edits, other)
        for other in known
        if len(other) >= _MIN_LETTERS and (edits := _edits(name.upper(), other)) <= _MAX_EDITS
    ]
    return min(near)[1] if near else None


def _edits(name: str, other: str) -> int:
    """Return the edit distance of two names; above `_MAX_EDITS` it is not exact.

    Source: Levenshtein's algorithm, row by row.
    """
    if abs(len(name) - len(other)) > _MAX_EDITS:
        return _MAX_EDITS + 1
    row = list(range(len(other) + 1))
    for number, letter in enumerate(name, 1):
        before, row = row, [number]
        for column, of_other in enumerate(other):
            exchanged = before[column] + (letter != of_other)
            row.append(min(exchanged, before[column + 1] + 1, row[column] + 1))
        if min(row) > _MAX_EDITS:
            break
    return row[-1]


def allowed_tokens(settings: Settings) -> tuple[bytes, ...]:
    """Return the allowed tokens; if there are none, every request is allowed.

    Raises:
        ConfigurationError: the file of tokens cannot be read, or holds no token.
    """
    tokens = [token.get_secret_value() for token in settings.authentication_allowed_tokens]
    if path := settings.authentication_allowed_tokens_file:
        variable = f"AUTHENTICATION_ALLOWED_TOKENS_FILE={path}"
        try:
            in_file = _parts(path.read_text("utf-8-sig").replace("\n", ","))
        except (OSError, UnicodeError) as error:
            reason = describe_error(error)
            raise ConfigurationError(f"{variable} cannot be read: {reason}") from error
        if not in_file:
            raise ConfigurationError(f"{variable} holds no token")
        tokens += in_file
    return tuple(token.encode() for token in tokens)


def forbid_hub_access() -> None:
    """Forbid the model libraries to use the network.

    Call this function before the libraries are imported: they read the environment once.
    """
    os.environ.update(_NO_HUB)


def limit_compute_threads(cores: int) -> None:
    """Limit the threads of numeric libraries; call this function before they are imported."""
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))
