"""Chooses the precision: the requested one if the device has instructions for it, else float32."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from backends.model import Precision

logger = logging.getLogger(__name__)

_WORTH = 1.2  # minimum speedup for the log to suggest a precision
_COST: Mapping[Precision, str] = {
    "bfloat16": "a cosine of about 0.9999",
    "float16": "a cosine of about 0.999999",
    "int8": "a cosine of about 0.999, a quarter of the weights' memory",
}


def usable(wanted: Precision | None, supported: Sequence[Precision]) -> Precision:
    """Return the requested precision, or float32 if the device lacks instructions for it."""
    return wanted if wanted and wanted in supported else "float32"


def lacking(device: str) -> str:
    """Return a reason for `log_refusal`: the device lacks instructions for the precision."""
    return f"{device} has no instructions for it"


def log_refusal(wanted: Precision | None, used: Precision, why: str) -> str:
    """Log a warning if the requested precision is not used.

    Args:
        wanted: the requested precision.
        used: the precision in use.
        why: the reason why the two precisions differ, if they do.

    Returns:
        The logged sentence, for `ModelInfo.refused`; empty if the requested precision is used.
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
    """Log the precision in use, and faster precisions of the device.

    Args:
        device: the device's name, as it is written in a sentence.
        wanted: the requested precision; the log does not suggest it.
        used: the precision in use.
        supported: precisions for which the device has instructions.
        speedups: function that measures the speed of precisions relative to float32. A precision
            that it does not return counts as faster.
        exact: whether float32 weights of the model are available.
    """
    if used != "float32":
        hint = "; PRECISION=float32 gives the reference's vectors" if exact else ""
        logger.info("Computing in %s%s", used, hint)
    elif faster := _faster([name for name in supported if name != wanted], speedups()):
        logger.info(
            "Computing in float32, the reference's vectors; %s is faster with PRECISION=%s, whose "
            "vectors need a collection of their own",
            device,
            " or PRECISION=".join(faster),
        )
    else:
        logger.info("Computing in float32; %s has no faster precision", device)


def _faster(supported: Sequence[Precision], speedups: Mapping[Precision, float]) -> list[str]:
    """Return a description of each precision that is faster than float32, the fastest first."""
    rough = [name for name in supported if name != "float32"]
    worth = [name for name in rough if speedups.get(name, _WORTH) >= _WORTH]
    worth.sort(key=lambda name: -speedups.get(name, _WORTH))
    return [
        f"{name} (a product {speedups[name]:.1f} times as fast, {_COST[name]})"
        if name in speedups
        else f"{name} ({_COST[name]})"
        for name in worth
    ]
