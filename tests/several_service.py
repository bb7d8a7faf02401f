"""The service with several real models, of which one, `fragile`, is a fake that can die."""

from collections.abc import Sequence

import app
from backends.model import Rows
from config import Settings
from errors import DeviceLostError
from tests.several import Texts
from vectorizer import Resources, Vectorizer, load_vectorizer

FRAGILE = "fragile"
DEADLY = "die"


class Fragile(Texts):
    """Its device is lost with a certain text."""

    def encode_text(self, texts: Sequence[str]) -> Rows:
        if DEADLY in texts:
            raise DeviceLostError("it was asked for")
        return super().encode_text(texts)


async def make_vectorizer(settings: Settings, resources: Resources) -> Vectorizer:
    if settings.models_dir.name == FRAGILE:
        return Vectorizer([Fragile(FRAGILE).model], settings, resources=resources)
    return await load_vectorizer(settings, resources)


if __name__ == "__main__":
    app.serve(Settings(), make_vectorizer)
