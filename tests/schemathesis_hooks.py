"""What schemathesis cannot make up: pictures. Named in `schemathesis.toml`."""

import schemathesis
from hypothesis import strategies as st

from tests.pictures import base64_of, plain

PICTURES = [base64_of(plain(colour)) for colour in ((200, 30, 30), (30, 30, 200))]

schemathesis.openapi.format(
    "picture",
    st.builds(
        str.__add__, st.sampled_from(["", "data:image/png;base64,"]), st.sampled_from(PICTURES)
    ),
)
