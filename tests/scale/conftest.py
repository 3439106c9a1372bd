"""The cohort that the tests of this folder share, and a bucket's server."""

from collections.abc import Iterator

import pytest
from scale.object_store import ObjectStore, serve
from scale.runs import Study, build


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return build(tmp_path_factory.mktemp("scale"))


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    """A server without buckets; who makes one takes it away again."""
    pytest.importorskip("s3fs", reason="needed for buckets: pip install 'wsi-pipeline[url]'")
    pytest.importorskip("moto.server", reason="moto[server] stands in for S3")
    with serve() as store:
        yield store
