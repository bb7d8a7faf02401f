"""The plan of a run: what it measures, and how long."""

from __future__ import annotations

from dataclasses import dataclass

from bench import families, inputs
from bench.load import Timing


@dataclass(frozen=True)
class Plan:
    """The settings of a run, which are part of its record.

    Attributes:
        family: the model, one of `families.FAMILIES`.
        clients: numbers of clients of the closed loops.
        batches: batch sizes that the bare loop tries.
        seconds: duration of a timed window.
        rounds: number of rounds; a figure is the median of the rounds.
        starts: number of timed starts of the service.
        sizes: image sizes beside 640x480, each measured once.
        rate_per_s: rate of the open loop; None for OPEN_LOOP_SHARE of the closed loop's rate.
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
        """Whether the model is a text model."""
        return self.family in families.TEXTS

    @property
    def timing(self) -> Timing:
        """The duration of a load."""
        return Timing(self.seconds, burn_in_s=min(1.0, self.seconds))


CROWD = 16  # clients of an import, of repeats, and of larger images
OPEN_LOOP_SHARE = 0.7
TEXT_CROWD = 32  # clients of an import of texts
BULK_CLIENTS, BULK_TEXTS = 8, 256  # requests that wait, and the texts of each
LONG_CLIENTS = 4  # clients with texts of the model's full length, beside the crowd's short ones
TUNING_S = 1.0
READY_EVERY_S = 0.04
SEARCH_EVERY_S = 0.037
