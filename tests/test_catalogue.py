"""The catalogue, and what is derived from it."""

import json
import subprocess
import sys

import open_clip
import pytest

from config import DownloadSettings
from download import settings_for_tag
from errors import DownloadError
from fetch import catalogue
from fetch.plan import plan
from tests.service import ROOT

# Source: the image tags of the references; then models that none of them serves.
TAGS = {
    "sentence-transformers-clip-ViT-B-32",
    "sentence-transformers-clip-ViT-B-32-multilingual-v1",
    "openai-clip-vit-base-patch16",
    "ViT-B-16-laion2b_s34b_b88k",
    "ViT-B-32-quickgelu-laion400m_e32",
    "xlm-roberta-base-ViT-B-32-laion5b_s13b_b90k",
    "google-siglip-so400m-patch16-256-i18n",
    "google-siglip2-so400m-patch16-384",
    "google-siglip2-so400m-patch16-512",
    "facebook-metaclip-2-worldwide-b32-384",
    "ModernVBERT-modernvbert-embed",
    "Qwen-Qwen3-VL-Embedding-2B",
    "Qwen-Qwen3-VL-Embedding-8B",
    "google-siglip2-base-patch16-naflex",
    "google-siglip2-so400m-patch16-naflex",
    "distilbert-base-uncased",
    "sentence-transformers-all-minilm-l6-v2",
    "sentence-transformers-all-minilm-l12-v2",
    "sentence-transformers-multi-qa-minilm-l6-cos-v1",
    "sentence-transformers-paraphrase-multilingual-minilm-l12-v2",
    "sentence-transformers-multi-qa-distilbert-cos-v1",
    "sentence-transformers-all-mpnet-base-v2",
    "sentence-transformers-multi-qa-mpnet-base-cos-v1",
    "sentence-transformers-paraphrase-multilingual-mpnet-base-v2",
    "baai-bge-small-en-v1.5",
    "baai-bge-base-en-v1.5",
    "snowflake-snowflake-arctic-embed-xs",
    "snowflake-snowflake-arctic-embed-s",
    "snowflake-snowflake-arctic-embed-m",
    "snowflake-snowflake-arctic-embed-l",
    "snowflake-snowflake-arctic-embed-m-v1.5",
    "biu-nlp-abstract-sim-sentence",
    "biu-nlp-abstract-sim-query",
    "minishlab-potion-base-4m",
    "minishlab-potion-base-8m",
    "minishlab-potion-base-32m",
    "sentence-transformers-gtr-t5-base",
    "sentence-transformers-gtr-t5-large",
    "sentence-transformers-sentence-t5-base",
    "google-flan-t5-base",
    "google-flan-t5-large",
    "mixedbread-ai-mxbai-embed-large-v1",
    "facebook-dpr-ctx_encoder-single-nq-base",
    "facebook-dpr-question_encoder-single-nq-base",
    "vblagoje-dpr-ctx_encoder-single-lfqa-wiki",
    "vblagoje-dpr-question_encoder-single-lfqa-wiki",
    "sentence-transformers-all-minilm-l6-v2-onnx",
    "baai-bge-small-en-v1.5-onnx",
    "baai-bge-base-en-v1.5-onnx",
    "baai-bge-m3-onnx",
    "mixedbread-ai-mxbai-embed-large-v1-onnx",
    "snowflake-snowflake-arctic-embed-xs-onnx",
    "snowflake-snowflake-arctic-embed-s-onnx",
    "snowflake-snowflake-arctic-embed-m-onnx",
    "snowflake-snowflake-arctic-embed-l-onnx",
    "cross-encoder-ms-marco-TinyBERT-L-2-v2",
    "cross-encoder-ms-marco-MiniLM-L-2-v2",
    "cross-encoder-ms-marco-MiniLM-L-6-v2",
    "cross-encoder-ms-marco-MiniLM-L-12-v2",
    "baai-bge-reranker-base",
    "baai-bge-reranker-large",
    "baai-bge-reranker-v2-m3",
    "mixedbread-ai-mxbai-rerank-xsmall-v1",
    "mixedbread-ai-mxbai-rerank-base-v1",
    "mixedbread-ai-mxbai-rerank-large-v1",
    "alibaba-nlp-gte-reranker-modernbert-base",
    "PE-Core-T-16-384-meta",
    "PE-Core-S-16-384-meta",
    "PE-Core-B-16-meta",
    "PE-Core-L-14-336-meta",
    "MobileCLIP2-S0-dfndr2b",
    "MobileCLIP2-S2-dfndr2b",
    "MobileCLIP2-B-dfndr2b",
    "EVA02-B-16-merged2b_s8b_b131k",
    "EVA02-L-14-merged2b_s4b_b131k",
    "EVA02-L-14-336-merged2b_s6b_b61k",
    "ViTamin-S-datacomp1b",
    "ViTamin-B-datacomp1b",
    "ViTamin-L-datacomp1b",
    "ViTamin-L2-datacomp1b",
    "ViTamin-XL-256-datacomp1b",
    "ViT-B-16-quickgelu-dfn2b",
    "ViT-L-14-quickgelu-dfn2b",
    "ViT-L-14-dfn2b_s39b",
    "ViT-H-14-quickgelu-dfn5b",
    "ViT-H-14-378-quickgelu-dfn5b",
    "nomic-ai-nomic-embed-text-v1.5",
    "qwen-qwen3-embedding-0.6b",
    "google-embeddinggemma-300m",
    "alibaba-nlp-community-gte-multilingual-base",
    "alibaba-nlp-gte-modernbert-base",
    "snowflake-snowflake-arctic-embed-m-v2.0",
    "snowflake-snowflake-arctic-embed-l-v2.0",
    "baai-bge-m3",
    "ibm-granite-granite-embedding-30m-english",
    "ibm-granite-granite-embedding-125m-english",
    "ibm-granite-granite-embedding-107m-multilingual",
    "ibm-granite-granite-embedding-278m-multilingual",
    "ibm-granite-granite-embedding-small-english-r2",
    "ibm-granite-granite-embedding-english-r2",
    "intfloat-multilingual-e5-small",
    "intfloat-multilingual-e5-base",
    "intfloat-multilingual-e5-large",
    "sentence-transformers-static-retrieval-mrl-en-v1",
    "minishlab-potion-retrieval-32m",
}
GATED = {"google-embeddinggemma-300m"}
FAMILY_OF = {
    "sentence-transformers": "sentence_transformers",
    "OpenAI CLIP": "openai",
    "MetaCLIP 2": "openai",
    "OpenCLIP": "openclip",
    "SigLIP": "siglip",
    "SigLIP 2": "siglip",
    "SigLIP 2 NaFlex": "siglip",
    "ModernVBERT": "modernvbert",
    "Qwen3-VL-Embedding": "qwen3_vl",
}


def output(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "fetch.catalogue", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_it_lists_the_models_of_the_reference() -> None:
    assert set(catalogue.load()) == TAGS
    assert output().split() == list(catalogue.load())


@pytest.mark.parametrize("tag", sorted(TAGS))
def test_a_tag_means_its_variables_in_any_environment(tag: str) -> None:
    noise = dict.fromkeys(["siglip_model_name", "clip_model_type", "text_model_name"], "openai/x")
    settings = settings_for_tag(DownloadSettings.model_validate(noise), tag)

    model = catalogue.find(tag)
    is_text = "MODEL_NAME" in model.variables
    assert plan(settings).family == ("text" if is_text else FAMILY_OF[model.family])
    assert str(settings.models_dir) == f"models/{tag}"


def test_capitals_do_not_matter_in_a_tag() -> None:
    written = "sentence-transformers-multi-qa-MiniLM-L6-cos-v1"

    assert catalogue.find(written).tag == written.lower()
    assert catalogue.find("vit-b-16-laion2b_s34b_b88k").tag == "ViT-B-16-laion2b_s34b_b88k"


def test_the_matrix_is_what_github_reads() -> None:
    matrix = json.loads(output("--matrix"))

    assert list(matrix) == ["include"]
    assert {entry["tag"] for entry in matrix["include"]} == TAGS - GATED
    assert all(
        entry["build_args"] == output("--build-args", entry["tag"]).strip()
        for entry in matrix["include"][:2]
    )


def test_build_args_are_options_of_docker_build() -> None:
    assert catalogue.find("ViT-B-16-laion2b_s34b_b88k").build_args == (
        "--build-arg OPEN_CLIP_MODEL_NAME=ViT-B-16 "
        "--build-arg OPEN_CLIP_PRETRAINED=laion2b_s34b_b88k"
    )


def test_the_tables_have_a_row_for_each_model() -> None:
    tables = [table.splitlines() for table in output("--table").strip().split("\n\n")]

    assert len(tables) == 2
    assert [row.split("`")[1] for _, _, *rows in tables for row in rows] == list(catalogue.load())
    assert [{row.count("|") for row in table} for table in tables] == [{10}, {9}]


def test_every_reranker_has_a_licence_that_is_known() -> None:
    assert all(model.licence for model in catalogue.load().values() if not model.dimensions)


def test_what_brings_code_of_its_own_is_said_to_be_untried() -> None:
    own = {
        tag: (model.runtime, model.tried)
        for tag, model in catalogue.load().items()
        if "TRUST_REMOTE_CODE" in model.variables
    }

    assert own == {
        "snowflake-snowflake-arctic-embed-m-v2.0": (
            "converted if its code can be, else torch",
            "nothing: its code is its own",
        )
    }


def test_a_gated_model_says_so_beside_its_licence() -> None:
    gated = {tag: model.terms for tag, model in catalogue.load().items() if model.gated}

    assert gated == dict.fromkeys(GATED, "Gemma terms, gated")
    assert catalogue.find("distilbert-base-uncased").terms == "?"
    assert catalogue.find("baai-bge-m3").terms == "MIT"


@pytest.mark.parametrize("tag", ["ViT-B-16", "nothing-like-it"])
def test_what_it_does_not_have_is_refused_with_the_known_tags(tag: str) -> None:
    with pytest.raises(DownloadError) as failure:
        catalogue.find(tag)

    assert all(known in str(failure.value) for known in TAGS)
    assert tag in str(failure.value)


@pytest.mark.parametrize(
    "model", [m for m in catalogue.load().values() if m.family == "OpenCLIP"], ids=lambda m: m.tag
)
def test_openclip_knows_the_pair_and_its_dimensions(model: catalogue.Model) -> None:
    name, pretrained = model.variables.values()
    config = open_clip.get_model_config(name)
    of_tag = open_clip.get_pretrained_cfg(name, pretrained)

    assert (name, pretrained) in open_clip.list_pretrained()
    assert config["embed_dim"] == model.dimensions
    assert config.get("quick_gelu", False) == of_tag.get("quick_gelu", False)


def test_the_page_of_models_has_the_tables_of_today() -> None:
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")

    assert catalogue.table() in page
    assert catalogue.rerankers() in page
