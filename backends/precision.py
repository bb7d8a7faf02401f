"""Which precision is computed in: the one asked for, where the device has instructions for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from backends.model import Precision

logger = logging.getLogger(__name__)


def usable(wanted: Precision, supported: Sequence[Precision]) -> Precision:
    """Return the precision asked for, or float32 where the device would have to imitate it."""
    return wanted if wanted in supported else "float32"


def log_choice(device: str, wanted: Precision, supported: Sequence[Precision]) -> None:
    """Tell in a line what the device can do, what is used, and what the other would bring."""
    if wanted not in supported:
        logger.warning(
            "PRECISION=%s: %s has no instructions for it, so float32 is used", wanted, device
        )
    elif wanted != "float32":
        logger.info("Computing in %s; PRECISION=float32 gives the reference's vectors", wanted)
    elif faster := [name for name in supported if name != "float32"]:
        logger.info(
            "Computing in float32, the reference's vectors. %s also has instructions for %s: "
            "PRECISION=%s computes several times faster, with vectors of a cosine of about 0.9999",
            device,
            " and ".join(faster),
            faster[0],
        )
    else:
        logger.info("Computing in float32; %s has no instructions for less", device)
