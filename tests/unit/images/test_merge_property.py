"""Random stacks of layers: the one-pass merge against the plain model, looked at through fsck.erofs."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from disks import build, extract
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from layer_model import Op, Refused, flatten, merge, tar_of

from hyper.errors import InvalidArgument

_PATHS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)
_OPS = st.one_of(
    st.builds(Op, st.just("file"), _PATHS, st.text("xyz", max_size=6), st.sampled_from([0o644, 0o4755, 0o600])),
    st.builds(Op, st.just("directory"), _PATHS, st.just(""), st.sampled_from([0o755, 0o700, 0o1777])),
    st.builds(Op, st.just("symlink"), _PATHS, st.sampled_from(["a", "../b", "/c", "b/a", "."]), st.just(0o777)),
    st.builds(Op, st.just("link"), _PATHS, _PATHS),
    st.builds(Op, st.just("whiteout"), _PATHS),
    st.builds(Op, st.just("opaque"), _PATHS),
)
_LAYERS = st.lists(st.lists(_OPS, max_size=7), min_size=1, max_size=4)


@settings(
    max_examples=int(os.environ.get("HYPER_PROPERTY_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(_LAYERS)
def test_merge_agrees_with_the_model(layers: list[list[Op]]) -> None:
    try:
        expected = flatten(merge(layers))
    except Refused:
        expected = None
    directory = Path(tempfile.mkdtemp())
    try:
        try:
            image, _ = build(directory, [tar_of(ops) for ops in layers])
        except InvalidArgument:
            event("refused")
            assert expected is None
            return
        event("merged")
        if expected is None:
            # What is wrong lies where an upper layer hides it: the single pass neither sees nor needs it.
            event("wrong but hidden")
            return
        assert extract(image, directory / "out") == {
            # fsck.erofs loses setuid when it changes the owner; test_images_mount.py compares all bits.
            path: (values[0], int(str(values[1])) & 0o1777, *values[2:3])
            for path, values in expected.items()
        }
    finally:
        shutil.rmtree(directory)
