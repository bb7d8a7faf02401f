"""Which precision is computed in: the one asked for, where the device has instructions for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from backends.model import Precision

logger = logging.getLogger(__name__)

_WORTH = 1.2  # times as fast; of less the log does not speak
_COST: Mapping[Precision, str] = {
    "bfloat16": "a cosine of about 0.9999",
    "float16": "a cosine of about 0.999999",
    "int8": "a cosine of about 0.999, a quarter of the weights' memory",
}


def usable(wanted: Precision | None, supported: Sequence[Precision]) -> Precision:
    """Return the precision asked for, or float32 where the device would have to imitate it."""
    return wanted if wanted and wanted in supported else "float32"


def lacking(device: str) -> str:
    """Return the reason that a device has for another precision, for `tell_refusal`."""
    return f"{device} has no instructions for it"


def tell_refusal(wanted: Precision | None, used: Precision, why: str) -> str:
    """Warn that another precision is used than was asked for.

    Args:
        wanted: what was asked for.
        used: what is computed in.
        why: the reason, where they are not the same.

    Returns:
        The same sentence, for `ModelInfo.refused`; empty where nothing else was asked for.
    """
    if wanted in (None, used):
        return ""
    refused = f"PRECISION={wanted}: {why}, so {used} is used"
    logger.warning("%s", refused)
    return refused


def log_choice(
    device: str,
    wanted: Precision | None,
    used: Precision,
    supported: Sequence[Precision],
    speedups: Callable[[], Mapping[Precision, float]] = dict,
    *,
    exact: bool = True,
) -> None:
    """Tell in a line what the device can do, what is used, and what the other would bring.

    Args:
        device: as a sentence calls it.
        wanted: what was asked for; it is not offered.
        used: what is computed in.
        supported: what the device computes in by instructions of its own.
        speedups: measures how many times as fast as in float32 it computes in the others; of those
            that it does not measure, their being there has to do.
        exact: whether the model can be had in float32.
    """
    if used != "float32":
        hint = "; PRECISION=float32 gives the reference's vectors" if exact else ""
        logger.info("Computing in %s%s", used, hint)
    elif faster := _faster([name for name in supported if name != wanted], speedups()):
        logger.info(
            "Computing in float32, the reference's vectors; %s is faster with PRECISION=%s, whose "
            "vectors want a collection of their own",
            device,
            " or PRECISION=".join(faster),
        )
    else:
        logger.info("Computing in float32; %s computes in nothing faster", device)


def _faster(supported: Sequence[Precision], speedups: Mapping[Precision, float]) -> list[str]:
    """Describe what is faster than float32, the fastest first."""
    rough = [name for name in supported if name != "float32"]
    worth = [name for name in rough if speedups.get(name, _WORTH) >= _WORTH]
    worth.sort(key=lambda name: -speedups.get(name, _WORTH))
    return [_described(name, speedups) for name in worth]


def _described(name: Precision, speedups: Mapping[Precision, float]) -> str:
    measured = f"a product {speedups[name]:.1f} times as fast, " if name in speedups else ""
    return f"{name} ({measured}{_COST[name]})"
