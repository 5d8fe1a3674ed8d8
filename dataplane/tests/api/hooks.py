"""What schemathesis cannot read from the document: formats with a grammar of their own, and that a stream has no end."""

import schemathesis
from hypothesis import strategies as st

schemathesis.openapi.format(
    "prefix", st.sampled_from(["10.0.0.0/8", "10.1.0.2", "0.0.0.0/0", "2001:db8::/32", "::1", "fd01::/64"])
)
schemathesis.openapi.format(
    "flow",
    st.one_of(
        st.builds("{}:{}".format, st.integers(0, 65535), st.integers(0, 2**32 - 1)),
        st.sampled_from(["10.1.0.2:5000 10.2.0.2:443", "tcp 10.1.0.2 -> [fd02::2]:80", "10.2.0.2"]),
    ),
)
schemathesis.openapi.format(
    "event-kinds", st.lists(st.sampled_from(["plan", "peer_up", "flow", "all", "drops_rising"]), max_size=4).map(",".join)
)


@schemathesis.hook
def before_call(context, case, kwargs):
    # Followed, it goes on for ever: what is wrong is left wrong, the rest ends.
    if case.path == "/v1/events" and isinstance(case.query, dict) and case.query.get("follow") in (None, True, "true"):
        case.query["follow"] = "false"
