"""A bucket of an object store that runs on this machine."""

import json
import logging
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
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

    @contextmanager
    def read_only(self) -> Iterator[dict[str, str]]:
        """Nobody has permission to write; the credentials of one who may read."""
        known = {"aws_access_key_id": "key", "aws_secret_access_key": SECRET}
        iam: Any = boto3.client(
            "iam", region_name="us-east-1", endpoint_url=f"http://{self.host}", **known
        )
        iam.create_user(UserName="reader")
        allowed = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
        key = iam.create_access_key(UserName="reader")["AccessKey"]
        self._ask_for_permission("0")
        try:
            yield {
                "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            }
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
