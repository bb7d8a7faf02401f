"""The models of the small hub: the catalogue's names, over the golden models.

OpenCLIP's architectures are open_clip's own, so their checkpoints have the real shapes; they are
made while they are sent (half precision, a seeded block repeated), and lie nowhere.
"""

import io
import json
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip import factory
from safetensors.torch import load_file
from transformers import (
    MetaClip2Config,
    MetaClip2Model,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    XLMRobertaConfig,
)

from fetch import catalogue
from tests.golden_cases import GOLDEN
from tests.golden_rerankers import GOLDEN_RERANKERS
from tests.golden_texts import GOLDEN_TEXTS
from tests.hub_server import Content, Hub, Repository, of_bytes

DECOY = of_bytes(b"a format that nobody should fetch")
PROCESSOR = GOLDEN / "metaclip2/openai_clip_processor"
GTE = "Alibaba-NLP/gte-reranker-modernbert-base"


def small_hub(scratch: Path) -> Hub:
    """A hub with every model of the catalogue, and what they need; `scratch` takes some files."""
    tower = make_tower(scratch / "xlm-roberta-base")
    plain, quick, foreign = (
        "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        "timm/vit_base_patch32_clip_224.laion400m_e32",
        "laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k",
    )
    repositories = {
        "sentence-transformers/clip-ViT-B-32": sentence_transformers_clip(),
        "sentence-transformers/clip-ViT-B-32-multilingual-v1": Repository.of_folders(
            GOLDEN / "sentence_transformers_multilingual/text"
        ),
        "openai/clip-vit-base-patch16": openai(),
        "facebook/metaclip-2-worldwide-b32-384": metaclip2(scratch / "metaclip2"),
        "google/siglip-so400m-patch16-256-i18n": siglip("siglip1"),
        "google/siglip2-so400m-patch16-384": siglip("siglip"),
        "google/siglip2-so400m-patch16-512": siglip("siglip"),
        "google/siglip2-base-patch16-naflex": siglip("siglip2_naflex"),
        "google/siglip2-so400m-patch16-naflex": siglip("siglip2_naflex"),
        **modernvbert(),
        "Qwen/Qwen3-VL-Embedding-2B": qwen3_vl(),
        "Qwen/Qwen3-VL-Embedding-8B": qwen3_vl(),
        plain: openclip("ViT-B-16"),
        quick: openclip("ViT-B-32-quickgelu"),
        foreign: openclip("xlm-roberta-base-ViT-B-32", tower),
        "FacebookAI/xlm-roberta-base": Repository.of_folders(tower, **{"model.safetensors": DECOY}),
    }
    repositories |= {name: texts(golden) for name, golden in golden_of_texts().items()}
    repositories |= {name: reranker(golden) for name, golden in golden_of_rerankers().items()}
    repositories[GTE] = modernbert_reranker(scratch / "modernbert-reranker")
    repositories["distilroberta-base"] = texts("roberta")  # of the documentation's two lines
    moved = {
        "xlm-roberta-base": "FacebookAI/xlm-roberta-base",
        "distilbert-base-uncased": "distilbert/distilbert-base-uncased",
        "distilroberta-base": "distilbert/distilroberta-base",
    }
    for old, new in moved.items():
        repositories.setdefault(new, repositories.pop(old, Repository({})))
    return Hub(repositories, moved)


def golden_of_texts() -> dict[str, str]:
    """The golden model that stands for each model of texts only of the catalogue, by its name."""
    of_family = {"BERT": "bert", "DistilBERT": "distilbert", "MPNet": "mpnet"} | {
        "XLM-RoBERTa": "xlm_roberta",
        "model2vec": "model2vec",
        "sentence-transformers": "sentence_transformers_t5",
        "DPR": "dpr_context",
    }
    of_name = {
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": "bert_unigram",
        "mixedbread-ai/mxbai-embed-large-v1": "sentence_transformers",
        "Qwen/Qwen3-Embedding-0.6B": "sentence_transformers_qwen3",
    }
    models = {
        name: model
        for model in catalogue.load().values()
        if model.dimensions and (name := model.variables.get("MODEL_NAME"))
    }
    return {
        name: of_name.get(name) or _kind_of(model) or of_family[model.family]
        for name, model in models.items()
    }


def _kind_of(model: catalogue.Model) -> str | None:
    name = model.variables["MODEL_NAME"]
    kinds = {"flan-t5": "flan_t5", "dpr-question": "dpr_question"}
    if found := next((golden for kind, golden in kinds.items() if kind in name), None):
        return found
    if "USE_QUERY_PASSAGE_PREFIXES" in model.variables:
        return "sentence_transformers_prefixes"
    is_kept = "USE_SENTENCE_TRANSFORMERS_VECTORIZER" in model.variables
    return "sentence_transformers" if is_kept and model.family != "model2vec" else None


def texts(golden: str) -> Repository:
    """As on the hub: a snapshot, a table's with its config, or an encoder with what is beside."""
    folder = GOLDEN_TEXTS / golden / "model"
    if snapshots := list(folder.glob("models--*/snapshots/*")):
        files = {"onnx/model.onnx": DECOY}
        if golden == "model2vec":
            files["config.json"] = of_bytes(b'{"model_type": "model2vec"}')
        return Repository.of_folders(snapshots[0], **files)
    decoys = dict.fromkeys(["pytorch_model.bin", "onnx/model.onnx", "rust_model.ot"], DECOY)
    modules = {"modules.json": of_bytes(b"[]"), "1_Pooling/config.json": of_bytes(b"{}")}
    return Repository.of_folders(folder, **decoys, **modules)


def golden_of_rerankers() -> dict[str, str]:
    """The golden model that stands for each reranker of the catalogue, by its name."""
    of_family = {"BERT": "bert_new_config", "XLM-RoBERTa": "xlm_roberta"} | {
        "DeBERTa v2": "deberta_v3"
    }
    return {
        model.variables["MODEL_NAME"]: of_family[model.family]
        for model in catalogue.load().values()
        if model.family in of_family and not model.dimensions
    }


def reranker(golden: str, **others: Content) -> Repository:
    """As on the hub, with the same weights in other formats beside them."""
    decoys = dict.fromkeys(["pytorch_model.bin", "onnx/model.onnx"], DECOY)
    return Repository.of_folders(GOLDEN_RERANKERS / golden / "model", **decoys, **others)


def modernbert_reranker(folder: Path) -> Repository:
    config = ModernBertConfig(
        vocab_size=1500,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
        num_labels=1,
    )
    ModernBertForSequenceClassification(config).save_pretrained(folder)
    written = {path.name: of_bytes(path.read_bytes()) for path in folder.iterdir()}
    return reranker("bert", **written)


def sentence_transformers_clip() -> Repository:
    decoys = ("0_CLIPModel/pytorch_model.bin", "onnx/model.onnx", "onnx/config.json")
    folder = GOLDEN / "sentence_transformers_0_CLIPModel/clip"
    return Repository.of_folders(folder, **dict.fromkeys(decoys, DECOY))


def openai() -> Repository:
    """As on the hub: a pickle, and no safetensors."""
    folder = GOLDEN / "openai"
    pickle = io.BytesIO()
    torch.save(load_file(folder / "openai_clip/model.safetensors"), pickle)
    repository = Repository.of_folders(folder / "openai_clip_processor", folder / "openai_clip")
    del repository.files["model.safetensors"]
    repository.files["pytorch_model.bin"] = of_bytes(pickle.getvalue())
    return repository


def metaclip2(folder: Path) -> Repository:
    """The golden model as its own class has it; the golden folder has it as a plain CLIP."""
    golden = GOLDEN / "metaclip2/openai_clip"
    config = MetaClip2Config.from_dict(
        {**json.loads((golden / "config.json").read_text()), "model_type": "metaclip_2"}
    )
    MetaClip2Model.from_pretrained(golden, config=config).save_pretrained(folder)
    return Repository.of_folders(PROCESSOR, folder, **{"pytorch_model.bin": DECOY})


def siglip(layout: str) -> Repository:
    root = GOLDEN / layout / "siglip"
    (processor,) = root.glob("models--*/snapshots/*")
    weights = (root / "model.safetensors").read_bytes()
    return Repository.of_folders(processor, **{"model.safetensors": of_bytes(weights)})


def modernvbert() -> dict[str, Repository]:
    """The model, and those that its configuration names: of these, the weights are not wanted."""
    root = GOLDEN / "modernvbert"
    towers = ("google/siglip2-base-patch16-512", "jhu-clsp/ettin-encoder-150m")
    snapshots = {
        name: sorted(root.glob(f"*/models--{name.replace('/', '--')}/snapshots/*"))
        for name in ("ModernVBERT/modernvbert-embed", *towers)
    }
    return {
        name: Repository.of_folders(
            *folders, **({"model.safetensors": DECOY, "vocab.txt": DECOY} if name in towers else {})
        )
        for name, folders in snapshots.items()
    }


def qwen3_vl() -> Repository:
    """As on the hub, with the same weights in a form that nobody should fetch."""
    (snapshot,) = (GOLDEN / "qwen3_vl/qwen3").glob("models--*/snapshots/*")
    return Repository.of_folders(snapshot, **{"pytorch_model.bin": DECOY})


def make_tower(path: Path) -> Path:
    """Write config and tokenizer of a tiny XLM-RoBERTa."""
    path.mkdir(parents=True)
    for file in PROCESSOR.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    XLMRobertaConfig(
        vocab_size=430,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=90,
    ).save_pretrained(path)
    return path


def openclip(architecture: str, tower: Path | None = None) -> Repository:
    decoys = dict.fromkeys(["open_clip_pytorch_model.bin", "model.safetensors"], DECOY)
    checkpoint = _checkpoint(_shapes(architecture, tower))
    return Repository({"open_clip_model.safetensors": checkpoint, "README.md": DECOY, **decoys})


def _shapes(architecture: str, tower: Path | None) -> dict[str, torch.Size]:
    """The shapes of an architecture's weights, without the weights."""
    config: dict[str, Any] = open_clip.get_model_config(architecture)
    if tower:
        config["text_cfg"] |= {"hf_model_name": str(tower), "hf_tokenizer_name": str(tower)}
    factory._MODEL_CONFIGS["shapes"] = config
    with torch.device("meta"):
        model = open_clip.create_model("shapes", pretrained_text=False, device="meta")
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _checkpoint(shapes: dict[str, torch.Size]) -> Content:
    """A safetensors file in half precision: an 8-byte length, a JSON header, the numbers."""
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * shape.numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    head = struct.pack("<Q", len(text)) + text
    return Content(len(head) + end, partial(_send, head, shapes))


def _send(head: bytes, shapes: dict[str, torch.Size]) -> Iterator[bytes]:
    yield head
    block = np.random.default_rng(1).normal(0, 0.02, 1 << 19).astype(np.float16)
    for name, shape in shapes.items():
        wide = "ln_" in name or "norm" in name.lower() or name == "logit_scale"
        remaining = shape.numel()
        while remaining:
            part = block[:remaining]
            yield (part + np.float16(wide and name.endswith(("weight", "scale")))).tobytes()
            remaining -= len(part)
