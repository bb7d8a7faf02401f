"""SigLIP 2 NaFlex: images keep their shape, and share passes all the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Siglip2ImageProcessor, Siglip2Model

from backends.embed import embed
from backends.folder import detect
from backends.model import ModelOptions, Rows, Runtime
from backends.preprocessing.patches import Grid, Patching
from backends.replicas import load_replica
from tests.golden_cases import EVERY_RUNTIME, GOLDEN, golden_model, recorded
from tests.image_files import READER
from tests.service import CONVERTED

PATCHING = Patching("torch", Image.Resampling.BILINEAR, 16, 256, positions=16)
# Of eight grids: from one row of patches to one column.
SIZES = [(2000, 1), (640, 480), (300, 900), (100, 100), (900, 200), (48, 21), (223, 480), (1, 2000)]


def images() -> list[Image.Image]:
    random = np.random.default_rng(3)
    noise = (random.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in SIZES)
    return [Image.fromarray(pixels) for pixels in noise]


def test_grids_are_those_of_transformers() -> None:
    for name, case in recorded("siglip2_naflex")["images"].items():
        image = READER.open((GOLDEN / "images" / name).read_bytes())

        assert PATCHING.grid_for(image) == tuple(case["spatial_shape"])


@pytest.mark.parametrize("grid", [Grid(16, 16), Grid(13, 19), Grid(50, 5), Grid(1, 256)])
@pytest.mark.parametrize("upright", [False, True])
def test_places_resize_the_table_of_positions_as_torch_does(grid: Grid, upright: bool) -> None:
    """Both ways round by the grid as it lies: torch's kernel errs where there is one column."""
    table = torch.randn(16, 16, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.interpolate(
        table.permute(2, 0, 1)[None], grid, mode="bilinear", antialias=True
    )[0].permute(1, 2, 0)
    if upright:
        grid, table = Grid(*reversed(grid)), table.transpose(0, 1)
        expected = expected.transpose(0, 1)
    rows, columns = np.split(PATCHING.places(grid), 2, axis=1)

    np.testing.assert_allclose(
        np.einsum("pi,pj,ijd->pd", rows, columns, table.numpy()),
        expected.flatten(0, 1).numpy(),
        rtol=0,
        atol=1e-5,  # torch rounds the weights to float32
    )


@EVERY_RUNTIME
def test_images_of_eight_grids_share_a_pass_and_do_not_change_each_other(
    runtime: Runtime,
) -> None:
    tower = golden_model("siglip2_naflex", "trained", runtime).towers["image"]
    passes: list[int] = []

    def counted(*arrays: np.ndarray) -> Rows:
        passes.append(len(arrays[0]))
        return tower.network(*arrays)

    alone = [embed(tower, [image])[0] for image in images()]
    together = embed(replace(tower, network=counted), images())

    assert len({PATCHING.grid_for(image) for image in images()}) == 8
    assert passes == [8]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


@EVERY_RUNTIME
def test_fewer_patches_give_the_vectors_that_transformers_gives(runtime: Runtime) -> None:
    options = ModelOptions(runtime=runtime, cache_dir=CONVERTED, max_num_patches=64)
    folder = detect(GOLDEN / "siglip2_naflex")
    model = load_replica(folder, options)
    original = Siglip2Model.from_pretrained(folder.part("siglip"))
    processor = Siglip2ImageProcessor(max_num_patches=64)
    shown = images()[:-1]  # the last is one column of patches, whose positions torch gets wrong
    inputs = processor(images=shown, return_tensors="pt")
    with torch.inference_mode():
        expected = original.get_image_features(**inputs).pooler_output.numpy()

    assert model.info.runtime == runtime
    np.testing.assert_allclose(embed(model.towers["image"], shown), expected, rtol=0, atol=1e-4)


def test_a_number_of_patches_is_part_of_the_vector_space_unless_it_is_the_checkpoints() -> None:
    spaces = [
        load_replica(
            detect(GOLDEN / "siglip2_naflex"), ModelOptions(max_num_patches=count)
        ).info.vector_space
        for count in (None, 256, 64)
    ]

    assert spaces[0] == spaces[1] != spaces[2]
