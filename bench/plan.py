"""What a run measures, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from bench import families, inputs
from bench.load import Timing


@dataclass(frozen=True)
class Plan:
    """The settings of a run; they go into its record.

    Attributes:
        family: the model, of `families.FAMILIES`.
        clients: numbers of clients of the closed loops.
        batches: sizes among which the bare loop finds its best.
        seconds: of each timed window.
        rounds: how often everything is measured; a figure is the median over them.
        starts: how often the service is started to time that.
        sizes: of images beside 640x480, each measured once.
        rate_per_s: of the open loop; None for OPEN_LOOP_SHARE of what the closed loop reached.
    """

    family: str
    clients: tuple[int, ...] = (1, 4, 16, 32)
    seconds: float = 2.5
    rounds: int = 3
    batches: tuple[int, ...] = (1, 4, 8, 16, 32)
    starts: int = 2
    sizes: tuple[tuple[int, int], ...] = inputs.SIZES[1:]
    rate_per_s: float | None = None

    @property
    def is_text_only(self) -> bool:
        """Whether the model is one of the text container."""
        return self.family in families.TEXTS

    @property
    def timing(self) -> Timing:
        """How long one load lasts."""
        return Timing(self.seconds, burn_in_s=min(1.0, self.seconds))


CROWD = 16  # clients of the import, of repeats and of the larger sizes
OPEN_LOOP_SHARE = 0.7
TEXT_CROWD = 32  # clients of an import of texts
BULK_CLIENTS, BULK_TEXTS = 8, 256  # requests that wait, and the texts of each
LONG_CLIENTS = 4  # who send texts of the model's full length beside the crowd's short ones
TUNING_S = 1.0
READY_EVERY_S = 0.04
SEARCH_EVERY_S = 0.037
