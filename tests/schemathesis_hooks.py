"""What schemathesis cannot make up: images. Named in `schemathesis.toml`."""

import schemathesis
from hypothesis import strategies as st

from tests.image_files import base64_of, plain

IMAGES = [base64_of(plain(colour)) for colour in ((200, 30, 30), (30, 30, 200))]

schemathesis.openapi.format(
    "picture",
    st.builds(
        str.__add__, st.sampled_from(["", "data:image/png;base64,"]), st.sampled_from(IMAGES)
    ),
)
