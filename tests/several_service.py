"""The service with several real models, of which one, `fragile`, is a fake that can die.

On demand each model takes SIZE bytes, the pauses after failed loads are short, and the first load
of `fragile` is killed in the middle.
"""

import itertools
import time
from collections.abc import Sequence

import app
import on_demand
import on_demand_model
from backends.model import Model, Rows
from config import Settings
from errors import DeviceLostError
from tests.several import Texts
from vectorizer import Resources, Vectorizer, load_vectorizer

FRAGILE = "fragile"
DEADLY = "die"
SIZE = 1000

_loads = itertools.count()


class Fragile(Texts):
    """Its device is lost with a certain text."""

    def encode_text(self, texts: Sequence[str]) -> Rows:
        if DEADLY in texts:
            raise DeviceLostError("it was asked for")
        return super().encode_text(texts)


def load_fragile() -> Model:
    time.sleep(0.2)
    if next(_loads) == 0:
        raise MemoryError("killed in the middle of a load")
    return Fragile(FRAGILE).model


async def make_vectorizer(settings: Settings, resources: Resources) -> Vectorizer:
    if settings.models_dir.name != FRAGILE:
        return await load_vectorizer(settings, resources)
    if resources.loader:
        model = await resources.loader.run(load_fragile)
    else:
        model = Fragile(FRAGILE).model
    return Vectorizer([model], settings, resources=resources)


if __name__ == "__main__":
    vars(on_demand).update(
        resident_bytes=itertools.count(0, SIZE).__next__,
        stored_bytes=lambda _: SIZE,
    )
    vars(on_demand_model).update(_FIRST_PAUSE_S=0.5, _LONGEST_PAUSE_S=0.5)
    app.serve(Settings(), make_vectorizer)
