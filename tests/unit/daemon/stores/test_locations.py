"""Valid bucket URLs, and what they name."""

from pathlib import Path

import pytest

from daemon.stores.locations import S3, Directory, Gcs, Location, parse, place, spelled


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("var/bucket", Directory(Path("var/bucket"))),
        ("/srv/a b?c#d", Directory(Path("/srv/a b?c#d"))),
        ("file:///srv/a%20b", Directory(Path("/srv/a b"))),
        ("file://localhost/srv", Directory(Path("/srv"))),
        ("s3://bucket", S3("bucket", "")),
        ("s3://bucket/", S3("bucket", "")),
        ("s3://bucket/a/b%20c/", S3("bucket", "a/b c")),
        (
            "s3://bucket/p?endpoint=http://127.0.0.1:9000&region=eu-west-1",
            S3("bucket", "p", "http://127.0.0.1:9000", "eu-west-1"),
        ),
        (
            "s3://bucket?endpoint=https%3A%2F%2Fstorage.example.com",
            S3("bucket", "", "https://storage.example.com"),
        ),
        ("gs://bucket/prefix", Gcs("bucket", "prefix")),
        ("gs://bucket_name.with.dots", Gcs("bucket_name.with.dots", "")),
        ("gs://bucket?endpoint=http://localhost:4443", Gcs("bucket", "", "http://localhost:4443")),
    ],
)
def test_a_url_names_a_place(text: str, location: Location) -> None:
    assert parse(text) == location


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a directory"),
        ("a\0b", "a directory"),
        ("ftp://host/x", "s3://bucket/prefix"),
        ("s3://[", "s3://bucket/prefix"),
        ("file://host/srv", "file:///dir"),
        ("file:///", "file:///dir"),
        ("file:///srv?x=1", "file:///dir"),
        ("s3://", "name a bucket"),
        ("s3:///prefix", "name a bucket"),
        ("s3://host:9000/bucket", "endpoint=URL"),
        ("s3://key:secret@bucket", "no user"),
        ("s3://bucket#x", "fragment"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/../b", "prefix"),
        ("s3://bucket?endpoint=", "with a value"),
        ("s3://bucket?region=a&region=b", "each once"),
        ("s3://bucket?profile=x", "only endpoint and region"),
        ("gs://bucket?region=x", "only endpoint after"),
        ("s3://bucket?endpoint=storage.example.com", "https://storage"),
        ("s3://bucket?endpoint=https://key:secret@storage.example.com", "https://storage"),
    ],
)
def test_an_invalid_url_is_refused_in_plain_words(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        parse(text)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("endpoint", "same"),
    [
        ("http://x:9000", "http://x:9000"),
        ("HTTP://Storage.Example.COM/", "http://storage.example.com"),
        ("http://x:80", "http://x"),
        ("https://x:443/", "https://x"),
        ("http://x:443", "http://x:443"),
        ("https://x:80", "https://x:80"),
        ("http://x/A/b//", "http://x/A/b"),
        ("http://[::1]:9000/", "http://[::1]:9000"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://x:99999/", "http://x:99999/"),
        ("http://x:a/", "http://x:a/"),
        ("http://[", "http://["),
        ("localhost:9000", "localhost:9000"),
        ("", ""),
    ],
)
def test_an_endpoint_is_normalised_and_invalid_text_stays_unchanged(
    endpoint: str, same: str
) -> None:
    assert spelled(endpoint) == same


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (Directory(Path("/srv/bundles")), "/srv/bundles/a/b.json"),
        (Directory(Path("bundles")), str(Path("bundles").absolute() / "a/b.json")),
        (S3("bucket", "", None, None), "s3://bucket/a/b.json"),
        (S3("bucket", "prefix", None, None), "s3://bucket/prefix/a/b.json"),
        (Gcs("bucket", "", None), "gs://bucket/a/b.json"),
        (Gcs("bucket", "deep/prefix", None), "gs://bucket/deep/prefix/a/b.json"),
    ],
)
def test_an_operator_finds_an_object_by_path_or_url(location: Location, expected: str) -> None:
    assert place(location, "a/b.json") == expected
