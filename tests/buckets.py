"""A bucket of an object store that runs on this machine."""

import logging
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from moto.server import ThreadedMotoServer
from pyarrow.fs import FileSystem

SECRET = "hush"


@dataclass(frozen=True)
class Bucket:
    """The bucket `corpora` of the S3 server at `host`."""

    host: str

    def url(self, key: str) -> str:
        return (
            f"s3://key:{SECRET}@corpora/{quote(key)}"
            f"?endpoint_override={self.host}&scheme=http&allow_bucket_creation=true"
        )

    def put(self, path: Path) -> str:
        """Copy a file or a folder, if there is one; where it is then."""
        url = self.url(path.as_posix().strip("/"))
        filesystem, _ = FileSystem.from_uri(url)
        for file in (f for f in (path, *path.rglob("*")) if f.is_file()):
            with filesystem.open_output_stream(f"corpora{file.as_posix()}") as copy:
                copy.write(file.read_bytes())
        return url

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody has permission for anything."""
        self._ask_for_permission("0")
        try:
            yield
        finally:
            self._ask_for_permission("inf")

    def _ask_for_permission(self, after: str) -> None:
        asked = urllib.request.Request(
            f"http://{self.host}/moto-api/reset-auth",
            after.encode(),
            {"Content-Type": "text/plain"},
        )
        urllib.request.urlopen(asked).close()


@contextmanager
def serve() -> Iterator[Bucket]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it reports every request
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    bucket = Bucket("{}:{}".format(*server.get_host_and_port()))
    filesystem, _ = FileSystem.from_uri(bucket.url(""))
    filesystem.create_dir("corpora")
    yield bucket
    server.stop()
