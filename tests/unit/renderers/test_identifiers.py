"""Text that may reach a rendered file: one allow-list for each kind of text."""

import pytest
from pydantic import TypeAdapter, ValidationError

from renderers import identifiers


def accepted(kind: object, value: object) -> object:
    """The value as the rule normalises it, or None if it is refused."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return None


HOSTILE = (
    "",
    " a",
    "a\n",
    "$(id)",
    "a;b",
    "a b",
    "é",
    "\x00",
    "a{b}",
    "../a",
    "`id`",
    "a'b",
    'a"b',
    "\u202ea",
)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "kind",
    [
        "ModelId",
        "BundleName",
        "TargetName",
        "ModelVersion",
        "Digest",
        "DeviceId",
        "Image",
        "ArtifactUri",
        "LabelKey",
    ],
)
def test_hostile_text_is_refused(kind, text):
    assert accepted(getattr(identifiers, kind), text) is None


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ModelId", "a" * 61),
        ("ModelId", "default"),
        ("ModelId", "a_b-c"),
        ("BundleName", "a" * 57),
        ("TargetName", "a" * 63),
        ("ModelVersion", "v1.2+b_3"),
        ("Digest", "sha256:" + "0" * 64),
        ("DeviceId", "GPU-1a:0"),
        ("Image", "localhost:5000/a/b_c:1.0@sha256:" + "0" * 64),
        ("Image", "nginx"),
        ("ArtifactUri", "gs://bucket/a/b=1"),
        ("LabelKey", "cost-centre"),
        ("LabelKey", "traefik.http.services.modelProxy.loadbalancer.server.port"),
        ("LabelKey", "prometheus.io/scrape"),
        ("LabelKey", "A" * 255),
        ("Restart", "no"),
        ("Restart", "on-failure"),
        ("Restart", "on-failure:1"),
        ("Restart", "on-failure:9999"),
        ("LabelValue", ""),
        ("LabelValue", "é $x"),
        ("DisplayName", "Kratzer 日本"),
    ],
)
def test_a_well_formed_text_is_unchanged(kind, text):
    assert accepted(getattr(identifiers, kind), text) == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ModelId", "a" * 62),
        ("ModelId", "A"),
        ("ModelId", "-a"),
        ("ModelId", "a_"),
        ("ModelId", 101),
        ("BundleName", "a" * 58),
        ("TargetName", "a" * 64),
        ("ModelVersion", "a" * 129),
        ("Digest", "sha256:" + "A" * 64),
        ("Image", "registry.example.com/UPPER"),
        ("Image", "a" * 513),
        ("ArtifactUri", "http://bucket/a"),
        ("ArtifactUri", "s3://bucket"),
        ("ArtifactUri", "s3://bucket/a//b"),
        ("ArtifactUri", "s3://bucket/a/../b"),
        ("ArtifactUri", "s3://user@bucket/a"),
        ("ArtifactUri", "s3://bucket/a?x=1"),
        ("LabelKey", "com.docker.compose.project"),
        ("Restart", "on-failure:0"),
        ("Restart", "on-failure:10000"),
        ("Restart", "on-failure:5\n"),
        ("Restart", "on-failure: 5"),
        ("Restart", "always:5"),
        ("Restart", "Always"),
        ("LabelKey", "bundle.models"),
        ("LabelValue", "a\nb"),
        ("LabelValue", "a" * 501),
        ("DisplayName", ""),
        ("DisplayName", "a\u202eb"),
        ("DisplayName", "a\u0085b"),
    ],
)
def test_a_text_that_breaks_its_rule_is_refused(kind, text):
    assert accepted(getattr(identifiers, kind), text) is None


SLUG = "must be lower-case letters, digits, '-' and '_', start and end with a letter or digit, and have at most {}"
CPUS = "must be a number of CPUs, such as 2 or 0.5"
LABEL = "must be letters, digits and . _ / - (255 at most), start and end with a letter or digit, and not start with com.docker. or bundle."


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("ModelId", "A", SLUG.format("61 characters")),
        ("BundleName", "a" * 58, SLUG.format("57 characters")),
        ("TargetName", "a_", SLUG.format("63 characters")),
        (
            "ModelVersion",
            "-1",
            "must start with a letter or digit and hold only letters, digits and . _ + - (128 at most)",
        ),
        ("Digest", "0" * 64, "must be sha256: and 64 lower-case hex digits"),
        (
            "DeviceId",
            "a" * 65,
            (
                "must be a device index or UUID: letters, digits and : . _ - (64 at most); or, "
                "with the driver cdi, a name such as nvidia.com/gpu=0"
            ),
        ),
        (
            "Image",
            "A",
            "must be an image reference such as registry.example.com/team/image:1.0 (512 characters at most)",
        ),
        (
            "RegistryHost",
            "registry",
            "must be a registry's host as images name it, such as docker.io or registry.example.com:5000",
        ),
        (
            "RegistryPrefix",
            "a b",
            "must be a host and perhaps a path, such as mirror.example.com/docker",
        ),
        (
            "ArtifactUri",
            "http://bucket/a",
            (
                "must be s3://bucket/key, gs://bucket/key, az://container/key, file:///path, or "
                "https://host/path of a .tar, .tar.gz or .tgz archive, without user, query or fragment; "
                "a bucket has 3 to 63 lower-case letters, digits and . _ - (a container no . and _), "
                "a key holds letters, digits, blanks and . _ = + @ , ~ / : ( ) - (no blanks, : ( ) with https)"
            ),
        ),
        ("ArtifactUri", "s3://bucket/a/./b", "must have no empty, '.' or '..' part in its key"),
        (
            "DisplayName",
            "a\u202eb",
            "must have no control, direction or unassigned character (found U+202E)",
        ),
        (
            "LabelValue",
            "a\nb",
            "must have no control, direction or unassigned character (found U+000A)",
        ),
        ("LabelKey", "bundle.x", LABEL),
        ("LabelKey", "com.docker.x", LABEL),
        ("LabelKey", "a" * 256, LABEL),
        ("LabelKey", "Bundle.x", LABEL),
        ("LabelKey", "a$b", LABEL),
        ("LabelKey", "a=b", LABEL),
        ("LabelKey", "/a", LABEL),
        ("LabelKey", "a/", LABEL),
        ("Cpus", True, CPUS),
        ("Cpus", "two", CPUS),
        ("Cpus", 10_001, "must be from 0 to 10000 with at most 3 decimals"),
        (
            "Memory",
            "4",
            "must be an amount with the unit b, k, m or g, such as 512m or 4g, or a number of bytes",
        ),
        ("Memory", -1, "must be from 0 to 1 PiB"),
    ],
)
def test_a_refusal_names_the_rule(kind, value, message):
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(getattr(identifiers, kind)).validate_python(value)
    [problem] = refused.value.errors()

    assert problem["msg"] == f"Value error, {message}"


@pytest.mark.parametrize(
    ("kind", "text", "is_one"),
    [
        ("RegistryHost", "docker.io", True),
        ("RegistryHost", "localhost", True),
        ("RegistryHost", "registry:5000", True),
        ("RegistryHost", "a." * 126 + "abc", True),
        ("RegistryHost", "a." * 126 + "abcd", False),
        ("RegistryHost", "docker.io/library", False),
        ("RegistryPrefix", "mirror.example.com/docker/hub", True),
        ("RegistryPrefix", "localhost", True),
        ("RegistryPrefix", "docker/hub", False),
        ("RegistryPrefix", "a.b/" + "c" * 251, True),
        ("RegistryPrefix", "a.b/" + "c" * 252, False),
        ("Image", "a" * 512, True),
        ("Image", "a/" * 255 + "bb", True),
        ("Image", "a/" * 255 + "bbb", False),
        ("ArtifactUri", "gs://bucket/a b/c  d (1)/e: f", True),
        ("ArtifactUri", "gs://bucket/a /b", False),
        ("ArtifactUri", "gs://bucket/a/ b", False),
        ("ArtifactUri", "gs://bucket/a ", False),
        ("ArtifactUri", "gs://bucket/a\u00a0b", False),
        ("ArtifactUri", "gs://bucket/a\tb", False),
        ("ArtifactUri", "gs://bucket/a%20b", False),
        ("ArtifactUri", "az://con-tainer/a b", True),
        ("ArtifactUri", "az://abc/a", True),
        ("ArtifactUri", "az://ab/a", False),
        ("ArtifactUri", "az://" + "a" * 63 + "/a", True),
        ("ArtifactUri", "az://" + "a" * 64 + "/a", False),
        ("ArtifactUri", "az://con--tainer/a", False),
        ("ArtifactUri", "az://-container/a", False),
        ("ArtifactUri", "az://container-/a", False),
        ("ArtifactUri", "az://con.tainer/a", False),
        ("ArtifactUri", "az://container/a./b", False),
        ("ArtifactUri", "az://$root/a", False),
        ("ArtifactUri", "file:///srv/models/a (1)", True),
        ("ArtifactUri", "file://srv/models", False),
        ("ArtifactUri", "file:///", False),
        ("ArtifactUri", "file:////etc/passwd", False),
        ("ArtifactUri", "file:///srv/../etc", False),
        ("ArtifactUri", "https://a.example.com/a/b.tar", True),
        ("ArtifactUri", "https://a.example.com:8443/b.tar.gz", True),
        ("ArtifactUri", "https://localhost/b.tgz", True),
        ("ArtifactUri", "https://a.example.com/.tar", False),
        ("ArtifactUri", "https://a.example.com/b.zip", False),
        ("ArtifactUri", "https://a.example.com/b/", False),
        ("ArtifactUri", "https://user@a.example.com/b.tar", False),
        ("ArtifactUri", "https://a.example.com/b.tar?sig=1", False),
        ("ArtifactUri", "https://a.example.com/?b.tar", False),
        ("ArtifactUri", "https://a.example.com/b c.tar", False),
        ("ArtifactUri", "https://a.example.com/../b.tar", False),
        ("ArtifactUri", "https://[::1]/b.tar", False),
        ("ArtifactUri", "http://a.example.com/b.tar", False),
        ("ArtifactUri", "hf://org/model", False),
        ("ArtifactUri", "models:/a/1", False),
        ("ArtifactUri", "S3://bucket/a", False),
        ("StoreName", "team-a", True),
        ("StoreName", "a" * 63, True),
        ("StoreName", "a" * 64, False),
        ("StoreName", "../a", False),
        ("StoreName", "", False),
        ("ArtifactUri", "s3://abc/" + "a" * 1024, True),
        ("ArtifactUri", "s3://abc/" + "a" * 1025, False),
        ("ArtifactUri", "s3://bucket/..a/b..", True),
        ("DisplayName", "a" * 500, True),
        ("DisplayName", "a" * 501, False),
        ("DisplayName", "a\ue000", False),
        ("DisplayName", "a\u2028", False),
        ("DisplayName", "a\u2029", False),
        ("DisplayName", "a\u0378", False),
    ],
)
def test_a_rule_is_exact_at_its_limits(kind, text, is_one):
    assert accepted(getattr(identifiers, kind), text) == (text if is_one else None)


def test_a_slash_at_the_end_of_a_uri_is_dropped():
    assert accepted(identifiers.ArtifactUri, "gs://bucket/a/") == "gs://bucket/a"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (2, "2"),
        (0.5, "0.5"),
        ("2.250", "2.25"),
        ("0.001", "0.001"),
        ("0", "0"),
        (0.0, "0"),
        ("1e1", "10"),
        (10_000, "10000"),
    ],
)
def test_cpus_are_kept_as_normalised_decimal_text(given, kept):
    assert accepted(identifiers.Cpus, given) == kept


@pytest.mark.parametrize(
    "given", [True, None, [], "two", "500m", -1, 10_001, 0.0001, float("nan"), float("inf")]
)
def test_an_invalid_number_of_cpus_is_refused(given):
    assert accepted(identifiers.Cpus, given) is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("4g", 4 << 30),
        ("512MiB", 512 << 20),
        ("1.5k", 1536),
        ("7b", 7),
        (1000, 1000),
        (0, 0),
        (1 << 50, 1 << 50),
        ("0.5G", 1 << 29),
    ],
)
def test_memory_is_kept_in_bytes(given, kept):
    assert accepted(identifiers.Memory, given) == kept


@pytest.mark.parametrize(
    "given", [True, None, "4", "4Gib ", "4t", "-1g", -1, (1 << 50) + 1, 1.5, "1048577g"]
)
def test_an_invalid_amount_of_memory_is_refused(given):
    assert accepted(identifiers.Memory, given) is None


def test_the_name_of_a_variable_has_underscores_for_hyphens():
    assert identifiers.variable_name("a-b_c") == "a_b_c"
