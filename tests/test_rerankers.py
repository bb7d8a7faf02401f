"""Rerankers give the scores of the reference's container, whatever computes them."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from backends.conversion.parity_check import SCORE_TOLERANCE, compare_logits
from backends.embed import embed, embed_all, score
from backends.folder import detect
from backends.model import EncodeParams, Model, ModelOptions, Pair, Precision, Runtime, TextMode
from backends.quantization.quantization_check import MAX_MEDIAN_SHIFT, compare_rough
from backends.replicas import load_replica
from backends.runtimes.openvino.cpu_capabilities import precisions
from backends.similarity import same_order
from backends.text_folder import detect_kind
from bench.trained import docstrings, trained_model
from errors import ConversionError, InvalidInputError, ModelFolderError
from tests.golden_cases import EVERY_MODE, EVERY_RUNTIME
from tests.golden_rerankers import (
    GOLDEN_RERANKERS,
    RERANKERS,
    pair_cases,
    recorded_meta,
    reranker,
)
from tests.service import CONVERTED, ROOT

EVERY_RERANKER = pytest.mark.parametrize("name", RERANKERS)
TOLERANCE = 1e-4


def copy_of(name: str, root: Path, **config: object) -> Path:
    """Copy a golden model, with other things in its configuration; None takes one away."""
    shutil.copytree(GOLDEN_RERANKERS / name / "model", root / "model")
    change(root / "model/config.json", **config)
    return root


def change(path: Path, **values: object) -> None:
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: one for key, one in content.items() if one is not None}))


def load(root: Path, mode: TextMode = "reference", runtime: Runtime = "torch") -> Any:
    return load_replica(
        detect(root), ModelOptions(text_mode=mode, runtime=runtime, cache_dir=CONVERTED)
    )


@EVERY_RUNTIME
@EVERY_RERANKER
def test_every_recorded_score_comes_back(name: str, runtime: Runtime) -> None:
    model, cases = reranker(name, runtime), pair_cases(name)

    scores = score(model, [case.pair for case in cases])

    assert model.info.runtime == runtime
    assert len(cases) == 132
    np.testing.assert_allclose(scores, [case.alone for case in cases], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(scores, [case.together for case in cases], rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("converting_here")
@EVERY_RUNTIME
def test_a_pair_with_an_id_that_has_no_embedding_is_refused(
    runtime: Runtime, tmp_path: Path
) -> None:
    whole = reranker("bert", runtime)
    readable, too_high = Pair("a", "b"), Pair("a", "grey herons crossed the marsh")
    ids = [
        whole.towers["pair"].processor.prepare(one, EncodeParams()).arrays[0]
        for one in (readable, too_high)
    ]
    rows = int(ids[0].max()) + 1
    assert rows <= ids[1].max()
    root = copy_of("bert", tmp_path, vocab_size=rows)
    weights = load_file(root / "model/model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    weights[name] = weights[name][:rows].contiguous()
    save_file(weights, root / "model/model.safetensors", metadata={"format": "pt"})
    options = ModelOptions("cpu", "reference", runtime=runtime, cache_dir=tmp_path / "converted")

    model = load_replica(detect(root), options)

    assert model.info.runtime == runtime
    np.testing.assert_allclose(score(model, [readable]), score(whole, [readable]), atol=1e-5)
    with pytest.raises(InvalidInputError, match=f"has embeddings of {rows} ids only"):
        score(model, [too_high])


@EVERY_RUNTIME
@EVERY_RERANKER
def test_a_score_does_not_depend_on_batch_mates(name: str, runtime: Runtime) -> None:
    tower = reranker(name, runtime).towers["pair"]
    pairs = [case.pair for case in pair_cases(name)[::4]]
    alone = [embed(tower, [pair])[0] for pair in pairs]

    order = random.Random(7).sample(range(len(pairs)), len(pairs))
    together = embed(tower, [pairs[place] for place in order])

    np.testing.assert_allclose(together, [alone[place] for place in order], rtol=0, atol=1e-5)


@EVERY_RUNTIME
def test_trained_asks_newer_places_for_the_activation_too(runtime: Runtime) -> None:
    pairs = [case.pair for case in pair_cases("bert")]
    by_mode = {
        mode: score(reranker("bert_new_config", runtime, mode), pairs)
        for mode in ("reference", "trained")
    }
    logits = score(reranker("bert", runtime, "trained"), pairs)

    np.testing.assert_allclose(by_mode["trained"], logits, atol=1e-5)
    np.testing.assert_allclose(by_mode["reference"], 1 / (1 + np.exp(-logits)), atol=1e-5)
    np.testing.assert_array_equal(np.argsort(by_mode["trained"]), np.argsort(by_mode["reference"]))


@pytest.mark.parametrize(
    ("old", "new", "newest", "by_mode"),
    [
        (None, None, None, {"reference": "sigmoid", "trained": "sigmoid"}),
        ("linear.Identity", None, None, {"reference": "identity", "trained": "identity"}),
        ("activation.Sigmoid", None, None, {"reference": "sigmoid", "trained": "sigmoid"}),
        (None, "linear.Identity", None, {"reference": "sigmoid", "trained": "identity"}),
        (
            "linear.Identity",
            "activation.Sigmoid",
            None,
            {"reference": "identity", "trained": "sigmoid"},
        ),
        (
            None,
            "activation.Sigmoid",
            "linear.Identity",
            {"reference": "sigmoid", "trained": "identity"},
        ),
        ("linear.Identity", "activation.ReLU", None, {"reference": "identity"}),
        ("activation.ReLU", "linear.Identity", None, {"trained": "identity"}),
    ],
)
def test_the_activation_is_named_in_one_of_three_places(
    old: str | None,
    new: str | None,
    newest: str | None,
    by_mode: dict[TextMode, str],
    tmp_path: Path,
) -> None:
    def full(name: str | None) -> str | None:
        return name and f"torch.nn.modules.{name}"

    within = {"activation_fn": full(new), "version": "4.1.0"} if new else None
    copy_of(
        "bert",
        tmp_path,
        sbert_ce_default_activation_function=full(old),
        sentence_transformers=within,
    )
    if newest:
        path = tmp_path / "model/config_sentence_transformers.json"
        path.write_text(json.dumps({"activation_fn": full(newest)}))

    for mode in by_mode:
        assert load(tmp_path, mode).info.activations == by_mode
        assert load(tmp_path, mode).info.activation == by_mode[mode]


@EVERY_MODE
@pytest.mark.parametrize("name", ["torch.nn.modules.activation.ReLU", "code.Identity", "Identity"])
def test_an_unknown_activation_is_refused_and_never_imported(
    name: str, mode: TextMode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    copy_of("bert", tmp_path, sbert_ce_default_activation_function=name)

    with pytest.raises(ModelFolderError, match=f"names the activation {name}, and only torch.nn."):
        load(tmp_path, mode)


# What is no reranker.


def test_several_labels_are_refused_with_a_sentence() -> None:
    with pytest.raises(ModelFolderError, match="cannot be served: it has 3 labels, so it class"):
        load(GOLDEN_RERANKERS / "bert_3_labels")


def test_labels_that_are_not_counted_are_two_as_transformers_has_it(tmp_path: Path) -> None:
    copy_of("bert", tmp_path, id2label=None, label2id=None)

    with pytest.raises(ModelFolderError, match="it has 2 labels"):
        load(tmp_path)


def without_head(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    kept = {name: weights[name] for name in weights if not name.startswith("classifier")}
    save_file(kept, model / "model.safetensors", {"format": "pt"})


def with_a_decoder(model: Path) -> None:
    change(model / "config.json", architectures=["Qwen3ForSequenceClassification"])
    change(model / "config.json", model_type="qwen3")


def cutting_the_beginning(model: Path) -> None:
    change(model / "tokenizer_config.json", truncation_side="left")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (without_head, "its weights lack classifier.bias, classifier.weight"),
        (with_a_decoder, r"it is a decoder \(qwen3\), and only encoders are served as rerankers"),
        (cutting_the_beginning, "its tokenizer .* does not truncate at the end"),
    ],
    ids=["no head", "a decoder", "cut at the beginning"],
)
def test_what_gives_no_meaningful_score_is_refused(
    damage: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    damage(copy_of("bert", tmp_path) / "model")

    with pytest.raises(ModelFolderError, match=sentence):
        load(tmp_path)


@EVERY_RERANKER
def test_the_architecture_alone_tells_a_reranker_from_an_embedder(
    name: str, tmp_path: Path
) -> None:
    assert detect_kind(detect(GOLDEN_RERANKERS / name)) == "reranker"
    assert detect_kind(detect(copy_of(name, tmp_path, architectures=["BertModel"]))) == "encoder"
    assert reranker(name).towers.keys() == {"pair"}


# How it is read.


@pytest.mark.parametrize(
    ("name", "model_max_length", "read"),
    [
        ("bert", 512, 512),
        ("bert", 100, 100),
        ("bert", 1000, 512),  # of which it has no more positions
        ("bert", None, 512),
        ("roberta", None, 512),  # of 514 positions
        ("xlm_roberta", None, 2048),
        ("deberta_v3", None, 512),
        ("deberta_v3", 1000, 1000),  # it has no positions
    ],
)
def test_a_pair_is_cut_where_the_tokenizer_or_the_model_says(
    name: str, model_max_length: int | None, read: int, tmp_path: Path
) -> None:
    root = copy_of(name, tmp_path)
    change(root / "model/tokenizer_config.json", model_max_length=model_max_length)
    tower = load(root).towers["pair"]

    (answer,) = embed_all(tower, [Pair("a heron", "the ferry crossed the bay " * 700)])

    assert (answer.tokens, answer.truncated) == (read, True)
    assert np.isfinite(answer.vector).all()


@pytest.mark.parametrize(
    ("name", "typed"), [("bert", True), ("deberta_v3", False), ("roberta", False)]
)
def test_the_network_is_reported_halves_only_where_it_has_learnt_of_them(
    name: str, typed: bool
) -> None:
    prepared = reranker(name).towers["pair"].processor.prepare(Pair("a", "b"), EncodeParams())

    assert len(prepared.arrays) == 2 + typed


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ({"tokenizer_class": "XLMRobertaTokenizer"}, False),
        ({"tokenizer_class": "XLMRobertaTokenizerFast"}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, True),
        ({"tokenizer_class": None}, True),
        ({"model_input_names": ["input_ids", "attention_mask"]}, False),
        ({"tokenizer_class": "X", "model_input_names": ["input_ids", "token_type_ids"]}, True),
    ],
)
def test_the_tokenizer_says_whether_halves_are_reported_apart(
    said: dict[str, object], typed: bool, tmp_path: Path
) -> None:
    root = copy_of("bert", tmp_path)
    change(root / "model/tokenizer_config.json", **said)

    prepared = load(root).towers["pair"].processor.prepare(Pair("a", "b"), EncodeParams())

    assert len(prepared.arrays) == 2 + typed


@EVERY_RERANKER
def test_meta_holds_what_the_reference_tells_of_a_model(name: str) -> None:
    config, recorded = reranker(name).info.config, recorded_meta(name)

    assert config.keys() == recorded.keys() == {"model"}
    model = config["model"]
    assert isinstance(model, dict)
    for key in ("_name_or_path", "model_type", "architectures", "id2label", "vocab_size"):
        assert model[key] == recorded["model"][key]


def test_scores_that_cannot_be_compared_are_of_other_spaces() -> None:
    names = {
        (name, mode): reranker(name, "torch", mode).info.score_space
        for name in ("bert", "bert_new_config")
        for mode in ("reference", "trained")
    }

    assert all(names.values())
    assert names["bert", "reference"] == names["bert", "trained"]
    assert names["bert_new_config", "reference"] != names["bert_new_config", "trained"]
    assert len(set(names.values())) == 3
    assert not reranker("bert").info.vector_space


# Converted.


@EVERY_MODE
@EVERY_RERANKER
def test_a_converted_reranker_tells_of_itself_what_the_original_does(
    name: str, mode: TextMode
) -> None:
    info, by_torch = (reranker(name, runtime, mode).info for runtime in ("openvino", "torch"))

    assert info.runtime == "openvino"
    assert replace(info, runtime="torch") == by_torch


@pytest.mark.usefixtures("converting_here")
def test_one_conversion_serves_both_text_modes_without_torch(tmp_path: Path) -> None:
    root = copy_of("bert_new_config", tmp_path / "original")
    options = ModelOptions(runtime="openvino", cache_dir=tmp_path / "converted")
    load_replica(detect(root), options)
    program = """
import sys
from pathlib import Path
from backends.embed import score
from backends.folder import detect
from backends.replicas import load_replica
from backends.model import ModelOptions, Pair
for mode in ("reference", "trained"):
    options = ModelOptions(runtime="openvino", text_mode=mode)
    model = load_replica(detect(Path(sys.argv[1])), options)
    print(model.info.score_space, *score(model, [Pair("grey heron", "A heron.")]))
print(sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules)))
"""
    answer = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    *by_mode, heavy = answer.stdout.splitlines()
    (space, sigmoid), (other_space, logit) = map(str.split, by_mode)
    recorded = -2.0554471  # of the same pair, with `bert`
    assert float(logit) == pytest.approx(recorded, abs=TOLERANCE)
    assert float(sigmoid) == pytest.approx(1 / (1 + np.exp(-recorded)), abs=TOLERANCE)
    assert space != other_space
    assert heavy == "[]"


@pytest.mark.parametrize("logit", [0.001, 2.0, -30.0])
def test_a_conversion_with_other_logits_is_refused(logit: float) -> None:
    expected = np.full((5, 1), logit, np.float32)
    other, strange = expected.copy(), expected.copy()
    other[3] += 3 * SCORE_TOLERANCE * max(abs(logit), 1)
    strange[3] = np.nan

    compare_logits(expected, expected + np.float32(SCORE_TOLERANCE / 2))
    for given in (other, strange):
        with pytest.raises(ConversionError, match="scores differ from the original's"):
            compare_logits(expected, given)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 1}
SMALL |= {"intermediate_size": 48, "vocab_size": 1500, "max_position_embeddings": 128}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}


@pytest.mark.usefixtures("converting_here")
@pytest.mark.parametrize(
    ("family", "kind", "own"),
    [
        ("DistilBERT", "DistilBert", DISTILBERT),
        ("ELECTRA", "Electra", {"embedding_size": 16}),
        ("MPNet", "MPNet", {"max_position_embeddings": 130}),  # begin behind the padding
        ("ModernBERT", "ModernBert", {"global_attn_every_n_layers": 2, "pad_token_id": 0}),
        ("albert", "Albert", {"embedding_size": 16}),
    ],
)
def test_other_families_are_converted_and_scored_as_transformers_does(
    family: str, kind: str, own: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **own}, initializer_range=0.3)
    network = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    copy_of("bert", tmp_path)
    change(tmp_path / "model/tokenizer_config.json", model_max_length=128)
    network.save_pretrained(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(GOLDEN_RERANKERS / "bert/model")
    pairs = [case.pair for case in pair_cases("bert")[::9]]

    models = {runtime: load(tmp_path, runtime=runtime) for runtime in ("torch", "openvino")}

    tower = models["torch"].towers["pair"]
    typed = len(tower.processor.prepare(pairs[0], EncodeParams()).arrays) == 3
    assert typed == (kind in ("Electra", "Albert"))
    for pair in pairs:
        halves = [half.strip() for half in pair]
        encoded = tokenizer([halves], truncation=True, max_length=128, return_tensors="pt")
        if not typed:
            del encoded["token_type_ids"]
        with torch.inference_mode():
            expected = network(**encoded).logits[0].numpy()
        for runtime, model in models.items():
            assert (model.info.family, model.info.runtime) == (family, runtime)
            given = embed(model.towers["pair"], [pair])[0]
            np.testing.assert_allclose(given, expected, rtol=TOLERANCE, atol=TOLERANCE)


# In fewer bits.

ROUGH: list[Precision] = ["bfloat16", "int8"]
EVERY_ROUGH = pytest.mark.parametrize("precision", ROUGH)


def rough(name: str, precision: Precision) -> Model:
    if precision not in precisions():
        pytest.skip(f"this CPU computes no {precision}")
    return reranker(name, "openvino", precision=precision)


@EVERY_ROUGH
@EVERY_RERANKER
def test_a_reranker_is_served_in_fewer_bits_under_another_name(
    name: str, precision: Precision
) -> None:
    model, exact = rough(name, precision), reranker(name, "openvino")
    pairs = [case.pair for case in pair_cases(name)]

    assert (model.info.precision, model.info.refused) == (precision, "")
    assert model.info.score_space not in ("", exact.info.score_space)
    expected, given = (embed(one.towers["pair"], pairs)[:, 0] for one in (exact, model))
    assert np.median(np.abs(expected - given)) <= MAX_MEDIAN_SHIFT * expected.std()
    assert same_order(expected, given) >= 0.93  # of random weights; see the trained network below


@EVERY_ROUGH
@EVERY_RERANKER
def test_in_fewer_bits_no_score_depends_on_its_batch_mates(name: str, precision: Precision) -> None:
    tower = rough(name, precision).towers["pair"]
    pairs = [case.pair for case in pair_cases(name)[::3]]

    together = embed(tower, pairs)
    alone = np.concatenate([embed(tower, [pair]) for pair in pairs])

    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("converting_here")
def test_a_trained_network_keeps_the_order_in_int8(tmp_path: Path) -> None:
    """Its head is random, as no package carries a trained reranker; its body is not."""
    torch.manual_seed(0)
    network = transformers.BertForSequenceClassification.from_pretrained(
        trained_model(), num_labels=1
    )
    torch.nn.init.normal_(network.classifier.weight, std=0.3)
    shutil.copytree(trained_model(), tmp_path / "model")
    network.save_pretrained(tmp_path / "model")
    options = ModelOptions(runtime="openvino", cache_dir=tmp_path / "converted")
    texts = docstrings()[:32]
    pairs = [Pair(query, text) for query in texts[:4] for text in texts[4:]]

    exact, given = (
        load_replica(detect(tmp_path), replace(options, precision=precision))
        for precision in ("float32", "int8")
    )

    assert (given.info.precision, given.info.refused) == ("int8", "")
    assert same_order(score(exact, pairs), score(given, pairs)) >= 0.97


def test_scores_that_int8_move_too_far_are_refused() -> None:
    logits = np.random.default_rng(4).normal(0, 3, (50, 1)).astype(np.float32)
    spread = float(logits.std())
    strange, far = logits.copy(), logits.copy()
    strange[7], far[7] = np.nan, far[7] + 0.6 * spread

    reported = compare_rough({"pair": logits}, {"pair": logits + np.float32(0.05 * spread)})
    assert reported.startswith("scores differ from float32 by 0.050 of their standard deviation")
    assert reported.endswith("1.000 of all pairs keep their order")
    for given in (logits + np.float32(0.2 * spread), strange, far):
        with pytest.raises(ConversionError, match="scores differ too much from those in float32"):
            compare_rough({"pair": logits}, {"pair": given})
