"""One causal mask for all layers: the same bits as with one in each."""

from collections import Counter
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from backends.conversion.conversion_cache import converted
from backends.folder import detect
from backends.model import ModelOptions, Precision
from backends.replicas import load_replica
from backends.runtimes.openvino.attention import share_causal_mask
from backends.runtimes.openvino.core import compile_network, read_network
from backends.runtimes.openvino.cpu_capabilities import compile_properties, precisions
from backends.runtimes.openvino.network import OpenVinoNetwork
from tests.golden_cases import GOLDEN
from tests.service import CONVERTED

CAUSAL = ["openai", "metaclip2"]
OTHERS = ["siglip", "openclip", "sentence_transformers"]
FLOAT32 = ModelOptions(runtime="openvino", precision="float32", cache_dir=CONVERTED)


def text_network(layout: str) -> ov.Model:
    return read_network(converted(detect(GOLDEN / layout), FLOAT32) / "text.xml")


def operations(network: ov.Model) -> Counter[str]:
    return operations_of(compile_network(network, compile_properties("float32")))


def operations_of(compiled: Any) -> Counter[str]:
    operations = compiled.get_runtime_model().get_ops()
    return Counter(op.get_rt_info()["layerType"].value for op in operations)


@pytest.mark.parametrize("layout", CAUSAL)
def test_layers_count_their_tokens_once(layout: str) -> None:
    before, after = text_network(layout), text_network(layout)
    layers = sum(op.get_type_name() == "ScaledDotProductAttention" for op in before.get_ops())
    share_causal_mask(after)

    assert layers > 1
    # One for rows and one for columns in each, before; one for both, after.
    assert operations(before)["Range"] - operations(after)["Range"] == 2 * layers - 1


@pytest.mark.parametrize("layout", CAUSAL)
def test_what_is_served_counts_them_once(layout: str) -> None:
    tower = load_replica(detect(GOLDEN / layout), FLOAT32).towers["text"]
    assert isinstance(tower.network, OpenVinoNetwork)
    shared = text_network(layout)
    share_causal_mask(shared)

    served = operations_of(tower.network._request.get_compiled_model())
    assert (
        served["Range"] == operations(shared)["Range"] < operations(text_network(layout))["Range"]
    )


def test_attention_without_a_mask_or_a_scale_is_causal_too() -> None:
    heads = [ops.parameter([1, 2, -1, 8], ov.Type.f32) for _ in range(3)]
    networks = [
        ov.Model([ops.scaled_dot_product_attention(*heads, causal=True)], heads) for _ in range(2)
    ]
    given = list(np.random.default_rng(0).standard_normal((3, 1, 2, 5, 8)).astype(np.float32))
    one = compile_network(networks[0], compile_properties("float32"))(given)[0].copy()
    share_causal_mask(networks[1])

    shared = compile_network(networks[1], compile_properties("float32"))(given)[0]
    assert np.array_equal(one, shared)


@pytest.mark.parametrize("layout", OTHERS)
def test_what_is_not_causal_stays(layout: str) -> None:
    network = text_network(layout)
    before = [op.get_type_name() for op in network.get_ordered_ops()]
    share_causal_mask(network)

    assert "ScaledDotProductAttention" in before
    assert [op.get_type_name() for op in network.get_ordered_ops()] == before


@pytest.mark.parametrize("layout", CAUSAL)
@pytest.mark.parametrize("precision", precisions())
def test_vectors_are_the_same_bits(layout: str, precision: Precision) -> None:
    before, after = text_network(layout), text_network(layout)
    share_causal_mask(after)
    one, other = (compile_network(one, compile_properties(precision)) for one in (before, after))
    for texts, tokens in [(1, 1), (1, 7), (3, 5), (16, 16)]:
        ids = np.random.default_rng(tokens).integers(1, 90, (texts, tokens))
        given = [ids.astype(port.element_type.to_dtype()) for port in before.inputs]

        assert np.array_equal(one(given)[0], other(given)[0])
