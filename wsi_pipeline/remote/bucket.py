"""A folder in an S3 bucket: its objects listed, fetched and put, each with the digest of its bytes.

Whatever goes wrong is one sentence that names the object. Throttling and short outages are waited
out by boto3's own retries.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from wsi_pipeline.digests import digest_of, file_digest
from wsi_pipeline.errors import BucketError, ConfigError

FORM: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]+)/?(.*?)/*")
ATTEMPTS: Final = 10  # of one request: about a minute of a store that says "slow down"
CONNECTIONS: Final = 32
PART_BYTES: Final = 8 << 20  # larger files go in parts, several at a time
DIGEST: Final = "xxh3"  # in an object's metadata
TAKEN: Final = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
ABSENT: Final = ("NoSuchKey", "404", "NotFound")
SAID: Final = {
    "NoSuchBucket": "there is no such bucket",
    "404": "there is no such object",
    "NoSuchKey": "there is no such object",
    "AccessDenied": "access is refused; check the credentials and the bucket's policy",
    "403": "access is refused; check the credentials and the bucket's policy",
    "InvalidAccessKeyId": "the credentials are not known there",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "SlowDown": "it asks to slow down, also after waiting",
}


class Bucket:
    """What lies below ``s3://bucket/prefix``; keys are told below the prefix.

    Several threads may use one. Endpoint, region and credentials are those of the environment
    (``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, …).

    Args:
        url: Of the folder.
        attempts: How often a request is tried.
        whole: Whether it may be the whole bucket.

    Raises:
        ConfigError: The URL is none of a bucket's folder, or boto3 is not installed.
    """

    def __init__(self, url: str, *, attempts: int = ATTEMPTS, whole: bool = False) -> None:
        found = FORM.fullmatch(url)
        if found is None or not (found[2] or whole):
            raise ConfigError(f"{url}: a folder in a bucket is s3://bucket/folder")
        self._bucket, self._prefix = found[1], f"{found[2]}/" if found[2] else ""
        self.url = f"s3://{found[1]}/{found[2]}".rstrip("/")
        try:
            import boto3
            import botocore.config
            from boto3.s3.transfer import TransferConfig
        except ImportError:
            raise ConfigError(
                f"{url}: buckets need boto3: pip install 'wsi-pipeline[url]'"
            ) from None
        self._parts = TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4
        )
        retries = {"mode": "standard", "total_max_attempts": attempts}
        how = botocore.config.Config(
            retries=retries, max_pool_connections=CONNECTIONS, connect_timeout=10, read_timeout=60
        )
        with self._told(""):
            self._client = boto3.client("s3", config=how)

    def sizes(self, below: str = "") -> dict[str, int]:
        """Return every object below a key, and its size in bytes."""
        found: dict[str, int] = {}
        with self._told(below):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + below
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    found[item["Key"].removeprefix(self._prefix)] = item["Size"]
        return found

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and its entity tag; None where it is not.

        Raises:
            BucketError: It is damaged, or cannot be had.
        """
        try:
            with self._told(key):
                told = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
                data: bytes = told["Body"].read()
        except _AbsentError:
            return None
        stored = told["Metadata"].get(DIGEST)
        if stored is not None and stored != digest_of(data):
            raise BucketError(f"{self.url}/{key}: damaged: it is not what was put there")
        return data, told["ETag"]

    def pieces(self, key: str, size: int) -> Iterator[bytes]:
        """Yield an object's bytes, ``size`` at a time.

        Raises:
            BucketError: It is not there, or cannot be had.
        """
        with self._told(key):
            told = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            yield from told["Body"].iter_chunks(size)

    def head(self, key: str, count: int) -> bytes:
        """Return an object's first bytes, at most ``count``; none of one that is empty.

        Raises:
            BucketError: It is not there, or cannot be had.
        """
        return self._range(key, f"bytes=0-{count - 1}")

    def tail(self, key: str, count: int) -> bytes:
        """Return an object's last bytes, at most ``count``.

        Raises:
            BucketError: It is not there, or cannot be had.
        """
        return self._range(key, f"bytes=-{count}")

    def _range(self, key: str, which: str) -> bytes:
        with self._told(key):
            told = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, Range=which)
            data: bytes = told["Body"].read()
        return data

    def fetch(self, key: str, path: Path) -> None:
        """Bring an object into a file.

        Raises:
            BucketError: It is not there, or cannot be had.
        """
        with self._told(key):
            self._client.download_file(
                self._bucket, self._prefix + key, str(path), Config=self._parts
            )

    def send(self, path: Path, key: str) -> str:
        """Put a file, and return its digest; the object appears whole or not at all."""
        digest = file_digest(path)
        with self._told(key):
            self._client.upload_file(
                str(path), self._bucket, self._prefix + key, Config=self._parts,
                ExtraArgs={"Metadata": {DIGEST: digest}},
            )  # fmt: skip
        return digest

    def put(self, key: str, data: bytes, *, instead_of: str | None = "") -> bool:
        """Put bytes.

        Args:
            key: Where to.
            data: What.
            instead_of: The entity tag of what is there, None where nothing is; by default,
                whatever is there.

        Returns:
            False if something else is there by now, and nothing was put.
        """
        only: dict[str, Any] = {}
        if instead_of != "":
            only = {"IfNoneMatch": "*"} if instead_of is None else {"IfMatch": instead_of}
        try:
            with self._told(key):
                self._client.put_object(
                    Bucket=self._bucket, Key=self._prefix + key, Body=data,
                    Metadata={DIGEST: digest_of(data)}, **only,
                )  # fmt: skip
        except _TakenError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        with self._told(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Turn what boto3 raises into one sentence that names the object."""
        import boto3.exceptions
        import botocore.exceptions

        try:
            yield
        except (
            botocore.exceptions.ClientError,
            botocore.exceptions.BotoCoreError,
            boto3.exceptions.Boto3Error,
            OSError,
            ValueError,  # of an endpoint that is no address
        ) as error:
            inner = error.__context__  # of an upload in parts, which is told as another error
            cause = inner if isinstance(inner, botocore.exceptions.ClientError) else error
            answer = getattr(cause, "response", {})
            code = str(answer.get("Error", {}).get("Code", ""))
            if code in TAKEN:
                raise _TakenError from None
            text = f"{self.url}/{key}: {SAID.get(code) or ' '.join(str(cause).split())}"
            raise (_AbsentError if code in ABSENT else BucketError)(text) from error


class _AbsentError(BucketError):
    """There is no such object."""


class _TakenError(Exception):
    """Something else is there by now."""
