"""Trains the demo model from scratch: `python -m demo.train`.

It draws scenes, trains the tokenizer and both towers, and writes demo/models.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from demo.captions import Caption, full_caption, partial_caption
from demo.layout import MAX_TOKENS, MODELS, make_tokenizer, save
from demo.pool import GRID, NOBODY, PATCH_PX, SIDE_PX, Pool, draw_pool
from demo.samples import write_samples
from demo.scenes import (
    CODES_PER_GROUP,
    COLOURS,
    COLUMNS,
    MOST,
    ROWS,
    SHAPES,
    SIZES,
    Codes,
    Scene,
    encode,
    fits,
)

logger = logging.getLogger(__name__)

SEED = 0
THREADS = 2
IMAGES = 60_000
FAMILIES_PER_BATCH = 20  # groups of four scenes that differ in one attribute
STEPS = 5_500
LEARNING_RATE = 1e-3
WARMUP_STEPS = 200
LOG_EVERY = 100
FULL_CAPTIONS = 0.6
READER_LOSS_WEIGHT = 2.0

_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def make_model(tokenizer: Any) -> Any:
    """Return a CLIPModel with random weights."""
    layers = {"num_attention_heads": 4, "num_hidden_layers": 4}
    text = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "image_size": SIDE_PX,
        "patch_size": PATCH_PX,
        **layers,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))
    # CLIP initializes positions twenty times smaller than patches; with these, "on the left" is
    # learnt in minutes instead of hours.
    positions = model.vision_model.embeddings.position_embedding.weight
    positions.data[1:] = sines(GRID, positions.shape[1])
    return model


def sines(side: int, width: int) -> Tensor:
    """Return sinusoidal position embeddings of patches: [side * side, width]."""
    angles = torch.arange(side)[:, None] * torch.pi / side * torch.arange(1, width // 4 + 1).sqrt()
    waves = torch.cat([angles.sin(), angles.cos()], dim=1) / 2  # [side, width / 2]
    rows, columns = waves.repeat_interleave(side, dim=0), waves.repeat(side, 1)
    return torch.cat([rows, columns], dim=1)


# Number of values of each attribute of a group, including the blank.
CHOICES = (MOST + 1, *(len(among) + 1 for among in (SIZES, COLOURS, SHAPES, COLUMNS, ROWS)))


class PatchReader(nn.Module):
    """An auxiliary head that predicts the group in each patch; it speeds training up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, sum(CHOICES))
        # Most patches are empty, so empty patches have a low weight.
        self.weights = [torch.tensor([0.1] + [1.0] * (choices - 1)) for choices in CHOICES]

    def forward(self, patches: Tensor, codes: Tensor) -> Tensor:
        """Return the loss. patches: [n, patches, width]; codes: [n, patches, 6], 0 if empty."""
        answers = self.head(patches).flatten(0, 1).split(CHOICES, dim=-1)
        columns = codes.flatten(0, 1).unbind(-1)
        losses = map(functional.cross_entropy, answers, columns, self.weights)
        return torch.stack(list(losses)).mean()


class SceneReader(nn.Module):
    """An auxiliary head that predicts the attributes in an image; it speeds training up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, sum(CHOICES))

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """Return the loss. images: [n, width]; codes: [n, 2, 6], of both groups."""
        seen = [functional.one_hot(codes[..., at], n).amax(1) for at, n in enumerate(CHOICES)]
        answers = self.head(images)
        return functional.binary_cross_entropy_with_logits(answers, torch.cat(seen, 1).float())


def contrast(images: Tensor, texts: Tensor, scale: Tensor, true: Tensor) -> Tensor:
    """Return CLIP's loss without pairs whose caption is true of another's image.

    Args:
        images: [n, dim].
        texts: [n, dim].
        scale: the inverse temperature.
        true: [n, n] bool, whether a text (row) is true of an image.
    """
    cosines = functional.normalize(texts, dim=-1) @ functional.normalize(images, dim=-1).T
    others = true & ~torch.eye(len(true), dtype=torch.bool)
    logits = (scale.exp().clamp(max=100) * cosines).masked_fill(others, -torch.inf)
    own = torch.arange(len(true))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def group_codes(scene_codes: Codes) -> Tensor:
    """Return the codes of both groups of each scene: [n, 2, 6]."""
    both = scene_codes[:, : 2 * CODES_PER_GROUP].reshape(-1, 2, CODES_PER_GROUP)
    return torch.from_numpy(both.astype(np.int64))


def patch_codes(groups: Tensor, owners: NDArray[np.int8]) -> Tensor:
    """Return the codes of the group in each patch: [n, patches, 6]."""
    owner = torch.from_numpy(owners.astype(np.int64)).unsqueeze(-1)
    codes = groups.gather(1, owner.clamp(min=0).expand(-1, -1, CODES_PER_GROUP))
    return codes.masked_fill(owner == NOBODY, 0)


def learning_rate(step: int) -> float:
    """Return the factor of LEARNING_RATE at a step: a warm-up, then half a cosine."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 * (1 + float(np.cos(np.pi * (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS))))


@dataclass(frozen=True)
class Batch:
    """A batch of images and captions.

    Attributes:
        pixels: [n, 3, SIDE_PX, SIDE_PX], normalized.
        tokens: [n, length], ids; tokens after the end token have no effect.
        true: [n, n] bool, whether a caption (row) is true of an image.
        groups: [n, 2, 6], codes of the groups in the images.
        patches: [n, patches, 6], codes of the group in each patch.
    """

    pixels: Tensor
    tokens: Tensor
    true: Tensor
    groups: Tensor
    patches: Tensor


def batches(pool: Pool, tokenizer: Any, rng: random.Random) -> Iterator[Batch]:
    """Yield batches without end, of groups of four scenes that differ in one attribute."""
    codes = encode(pool.scenes)
    while True:
        families = rng.sample(range(len(pool.scenes) // 4), FAMILIES_PER_BATCH)
        at = [4 * family + member for family in families for member in range(4)]
        captions = [_caption(pool.scenes[i], rng) for i in at]
        groups = group_codes(codes[at])
        tokens = tokenizer([c.text for c in captions], padding=True, return_tensors="pt")
        yield Batch(
            pixels=(torch.from_numpy(pool.pixels[at]) / 255 - _MEAN) / _STD,
            tokens=tokens.input_ids,
            true=torch.from_numpy(fits(encode([c.claims for c in captions]), codes[at])),
            groups=groups,
            patches=patch_codes(groups, pool.owners[at]),
        )


def _caption(scene: Scene, rng: random.Random) -> Caption:
    return (full_caption if rng.random() < FULL_CAPTIONS else partial_caption)(scene, rng)


def losses(model: Any, readers: nn.ModuleList, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return CLIP's loss, and the loss of the auxiliary heads."""
    seen = model.vision_model(pixel_values=batch.pixels, output_hidden_states=True)
    images = model.visual_projection(seen.pooler_output)
    texts = model.text_projection(model.text_model(input_ids=batch.tokens).pooler_output)
    return (
        contrast(images, texts, model.logit_scale, batch.true),
        # The head reads the input of the last layer, which gathers the patches.
        readers[0](seen.hidden_states[-2][:, 1:], batch.patches) + readers[1](images, batch.groups),
    )


def learn(model: Any, examples: Iterator[Batch]) -> None:
    """Train the model in place."""
    width = model.config.vision_config.hidden_size
    readers = nn.ModuleList([PatchReader(width), SceneReader(model.config.projection_dim)])
    weights = [*model.parameters(), *readers.parameters()]
    optimizer = torch.optim.AdamW(weights, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)
    started_s = time.perf_counter()
    for step, batch in enumerate(itertools.islice(examples, STEPS), start=1):
        clip_loss, reader_loss = losses(model, readers, batch)
        optimizer.zero_grad()
        torch.autograd.backward(clip_loss + READER_LOSS_WEIGHT * reader_loss)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % LOG_EVERY == 0:
            elapsed_s = time.perf_counter() - started_s
            values = (step, STEPS, clip_loss.item(), reader_loss.item(), elapsed_s)
            logger.info("step %d of %d: loss %.3f, readers %.3f, %.0f s", *values)


def main() -> None:
    """Draw scenes, train, and write the model folder and the samples."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    rng = random.Random(SEED)
    logger.info("Drawing %d images", IMAGES)
    pool = draw_pool(IMAGES, THREADS)
    tokenizer = make_tokenizer(_caption(scene, rng).text for scene in pool.scenes[:40_000])
    model = make_model(tokenizer).train()
    learn(model, batches(pool, tokenizer, rng))
    save(model.eval(), tokenizer, SIDE_PX)
    write_samples()
    logger.info("Written: %s", MODELS)


if __name__ == "__main__":
    main()
