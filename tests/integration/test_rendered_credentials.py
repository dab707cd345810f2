"""Every row of the credentials table in a bundle's README, with real rclone and real servers.

A row's lines go into creds/bundle/.env as they are, with the placeholders filled. rclone asks for
the public hosts of the clouds. A forward proxy leads these names to servers on loopback.
"""

import base64
import contextlib
import datetime as dt
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dotenv
import pytest

from renderers.template_set import Templates
from tests.builders import make_composition, make_model
from tests.services import rclone as rclone_service
from tests.services.availability import available
from tests.services.azurite import ACCOUNT, HOST, KEY, Azurite
from tests.services.gcs import Gcs, token_endpoint
from tests.services.tools import shell
from tests.services.versitygw import ACCESS_KEY, SECRET_KEY
from tests.support import scripted_http
from tests.support.certificates import Authority
from tests.support.download_host import FILES, Host, composition, s3_client
from tests.support.forward_proxy import ForwardProxy, Request, forward_proxy
from tests.support.target_host import DeployedBundle

AWS = "s3.us-east-1.amazonaws.com"
OWN = "s3.example.com"
GOOGLE = "storage.googleapis.com"
_TENANT = "11111111-1111-1111-1111-111111111111"
_LATER = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _table() -> dict[str, tuple[str, ...]]:
    """The lines of each row of the table in the README, by its first cell."""
    text = Templates.built_in().text("README.md")
    table = text.partition("| for | lines |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = {}
    for row in table.splitlines():
        _, purpose, lines, _ = (cell.strip() for cell in row.split("|"))
        rows[purpose] = tuple(re.findall(r"`([A-Z][A-Z0-9_]*=[^`]*)`", lines))
    return rows


TABLE = _table()


@dataclass(frozen=True, slots=True)
class Cloud:
    """A target host, and the servers that it reaches by their public names."""

    host: Host
    proxy: ForwardProxy
    azure: Azurite
    domains: Mapping[str, str]
    """The addresses of the S3 server by the domain of its buckets."""
    ministack: str
    """The address of another S3 server, which takes every key."""
    public: str
    """A bucket of the S3 server that everybody may read."""

    @property
    def creds(self) -> Path:
        return self.host.bundle.directory / "creds/bundle"

    def put(self, scheme: str, bucket: str | None = None) -> str:
        """The URI of a model that was uploaded for this."""
        where = bucket or self.host.bucket
        for file in FILES["tensorflow"]:
            key, body = f"models/101/{file}", f"{scheme} {file}".encode()
            match scheme:
                case "gs":
                    self.host.gcs.put(where, key, body)
                case "az":
                    self.azure.put(where, key, body)
                case _:
                    self.host.client.put_object(Bucket=where, Key=key, Body=body)
        return f"{scheme}://{where}/models/101"

    def set(self, *lines: str, file: str = ".env") -> None:
        """Put lines into a file of creds/bundle, in the place of those with the same name."""
        names = [line.partition("=")[0] for line in lines]
        path = self.creds / file
        before = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in before if line.partition("=")[0] not in names]
        path.write_text("\n".join([*kept, *lines]) + "\n")

    def download(
        self, *uris: str, store: str | None = None, network: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Exit code and log. `network`: what the container would find around it, by default the
        proxy.
        """
        artifact = {"store": store} if store else {}
        wanted = [
            make_model(str(101 + number), artifact={"uri": uri} | artifact)
            for number, uri in enumerate(uris)
        ]
        around = self.proxy.environment if network is None else network
        # Compose reads it as python-dotenv does; values of an env file win over the image's.
        lines = dotenv.dotenv_values(self.creds / ".env", interpolate=False)
        given = {
            # In the container, creds/bundle is /creds.
            name: (value or "").replace("/creds/", f"{self.creds}/")
            for name, value in lines.items()
        }
        return self.host.download(
            composition(*wanted), {"RCLONE_GCS_ENDPOINT": ""} | dict(around) | given
        )

    def route(self, host: str, address: str | None) -> None:
        """Lead a host to another server, or to none."""
        if address is None:
            del self.proxy.routes[host]
        else:
            self.proxy.routes[host] = address

    @property
    def s3_requests(self) -> list[Request]:
        """What rclone asked of an S3 server."""
        return [
            request for request in self.proxy.requests if request.host.endswith(tuple(self.domains))
        ]

    def asked(self, host: str) -> list[Request]:
        """What rclone asked of a host."""
        return [request for request in self.proxy.requests if request.host == host]


@pytest.fixture(params=rclone_service.EDITIONS)
def cloud(
    request: pytest.FixtureRequest,
    s3_domains: dict[str, str],
    s3_server: str,
    gcs_server: Gcs,
    azure_server: Azurite,
    tmp_path: Path,
) -> Iterator[Cloud]:
    rclone = available(lambda: rclone_service.rclone(request.param))
    bucket = re.sub("[^a-z0-9]+", "-", tmp_path.name.lower())[:50].strip("-")
    client = s3_client(s3_domains[OWN])
    for name in (bucket, f"{bucket}-public"):
        client.create_bucket(Bucket=name)
    statement = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"]}
    client.put_bucket_policy(
        Bucket=f"{bucket}-public",
        Policy=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    statement
                    | {
                        "Resource": [
                            f"arn:aws:s3:::{bucket}-public",
                            f"arn:aws:s3:::{bucket}-public/*",
                        ]
                    }
                ],
            }
        ),
    )
    gcs_server.create_bucket(bucket)
    azure_server.create_container(bucket)
    bundle = DeployedBundle.install(make_composition(1), tmp_path / "a host")
    dash = available(lambda: shell("dash"))
    host = Host(bundle, dash, rclone, s3_domains[OWN], bucket, client, gcs_server)
    host.models.mkdir()
    host.router.mkdir()
    routes = {GOOGLE: gcs_server.address, HOST: azure_server.address, OWN: s3_domains[OWN]}
    routes |= {f"*.{domain}": address for domain, address in s3_domains.items()}
    authority = Authority.create(tmp_path)
    with forward_proxy(authority, routes) as proxy:
        yield Cloud(host, proxy, azure_server, s3_domains, s3_server, f"{bucket}-public")


# ---- what gives an identity to a machine ----


def _answers(routes: Mapping[str, tuple[str, str]]) -> Callable[[object], None]:
    """Answers by the beginning of the path: kind and body. The longest beginning counts."""

    def answer(handler) -> None:
        matching = [start for start in routes if handler.path.startswith(start)]
        if not matching:
            scripted_http.says(404)(handler)
            return
        kind, body = routes[max(matching, key=len)]
        scripted_http.says(200, body.encode(), content_type=kind, metadata_flavor="Google")(handler)

    return answer


def _aws_keys(**more: str) -> str:
    keys = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": "session"}
    return json.dumps(keys | {"Expiration": _LATER} | more)


_IMDS = "/latest/meta-data/iam/security-credentials/"


@dataclass(frozen=True, slots=True)
class Given:
    """A host and a store as they are before an operator edits creds/bundle."""

    uri: str
    values: Mapping[str, str] = field(default_factory=dict)
    """What a row's placeholders stand for."""
    lines: tuple[str, ...] = ()
    """What creds/bundle/.env has without the row."""
    network: Mapping[str, str] | None = None
    """What the container finds around it; by default the proxy."""


def _s3_lines(provider: str = "Minio", endpoint: str = OWN) -> tuple[str, ...]:
    return (
        f"RCLONE_S3_PROVIDER={provider}",
        f"RCLONE_S3_ENDPOINT={endpoint}",
        f"RCLONE_S3_ACCESS_KEY_ID={ACCESS_KEY}",
        f"RCLONE_S3_SECRET_ACCESS_KEY={SECRET_KEY}",
    )


def _put_on_aws(cloud: Cloud) -> str:
    """The URI of a model on a server that takes keys of sessions, which versitygw does not."""
    cloud.route(f"*.{AWS}", cloud.ministack)
    client = s3_client(cloud.ministack)
    client.create_bucket(Bucket=cloud.host.bucket)
    return replace(cloud, host=replace(cloud.host, client=client)).put("s3")


def _check_role(cloud: Cloud) -> None:
    assert cloud.s3_requests
    for request in cloud.s3_requests:
        assert request.headers["x-amz-security-token"] == "session"
        assert f"Credential={ACCESS_KEY}/" in request.headers["authorization"]


@contextlib.contextmanager
def ec2_role(cloud: Cloud) -> Iterator[Given]:
    """The metadata service of EC2 in version 2."""
    answers = {
        _IMDS: ("text/plain", "reader"),
        f"{_IMDS}reader": ("application/json", _aws_keys(Code="Success", Type="AWS-HMAC")),
    }

    def answer(handler) -> None:
        if handler.command == "PUT":
            ttl = {"x_aws_ec2_metadata_token_ttl_seconds": "21600"}
            scripted_http.says(200, b"a token", **ttl)(handler)
        elif handler.headers["x-aws-ec2-metadata-token"] != "a token":
            scripted_http.says(401)(handler)
        else:
            _answers(answers)(handler)

    with scripted_http.server(answer) as (address, _):
        around = cloud.proxy.environment | {"AWS_EC2_METADATA_SERVICE_ENDPOINT": address}
        yield Given(_put_on_aws(cloud), {"region": "us-east-1"}, network=around)
    _check_role(cloud)


@contextlib.contextmanager
def container_role(cloud: Cloud) -> Iterator[Given]:
    """The endpoint of ECS and of EKS Pod Identity."""
    answers = _answers({"/v1/credentials": ("application/json", _aws_keys())})
    with scripted_http.server(answers) as (address, seen):
        around = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{address}/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "of this container",
        }
        network = cloud.proxy.environment | around
        yield Given(_put_on_aws(cloud), {"region": "us-east-1"}, network=network)
    _check_role(cloud)
    assert {headers["Authorization"] for *_, headers, _ in seen} == {"of this container"}


@contextlib.contextmanager
def web_identity(cloud: Cloud) -> Iterator[Given]:
    """A token of Kubernetes or another issuer, which AWS STS exchanges for keys."""
    (cloud.creds / "token").write_text("a token of the issuer")
    names = {
        "AccessKeyId": ACCESS_KEY,
        "SecretAccessKey": SECRET_KEY,
        "SessionToken": "session",
        "Expiration": _LATER,
    }
    keys = "".join(f"<{name}>{value}</{name}>" for name, value in names.items())
    action = "AssumeRoleWithWebIdentity"
    answer = (
        f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>'
        f"<Credentials>{keys}</Credentials></{action}Result></{action}Response>"
    )
    with scripted_http.server(_answers({"/": ("text/xml", answer)})) as (address, seen):
        cloud.route("sts.amazonaws.com", address)
        cloud.route("sts.us-east-1.amazonaws.com", address)
        around = {
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/reader",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(cloud.creds / "token"),
        }
        network = cloud.proxy.environment | around
        yield Given(_put_on_aws(cloud), {"region": "us-east-1"}, network=network)
    _check_role(cloud)
    forms = [urllib.parse.parse_qs(body.decode()) for *_, body in seen]
    assert {form["WebIdentityToken"][0] for form in forms} == {"a token of the issuer"}


@contextlib.contextmanager
def keys_of_the_environment(cloud: Cloud) -> Iterator[Given]:
    """AWS's own variables."""
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    yield Given(cloud.put("s3"), {"region": "us-east-1"}, network=cloud.proxy.environment | keys)


@contextlib.contextmanager
def profile(cloud: Cloud) -> Iterator[Given]:
    (cloud.creds / "profiles").write_text(
        "[default]\naws_access_key_id = other\naws_secret_access_key = other\n"
        f"[team]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    yield Given(cloud.put("s3"), {"name": "team", "file": "profiles"}, _s3_lines()[:2])


@contextlib.contextmanager
def google_machine(cloud: Cloud) -> Iterator[Given]:
    """The metadata server of Google Cloud."""
    token = {"access_token": "of this machine", "expires_in": 3600, "token_type": "Bearer"}
    kind = "application/json"
    path = "/computeMetadata/v1/instance/service-accounts/default/token"
    answers = _answers({path: (kind, json.dumps(token))})
    with scripted_http.server(answers) as (address, _), token_endpoint() as other:
        around = {"GCE_METADATA_HOST": address.removeprefix("http://")}
        # An account in gcs.json comes first for rclone, and this one is not known to Google.
        unknown = json.loads(other.service_account)
        unknown["token_uri"] = f"{address}/no-such-account"
        cloud.host.trust(json.dumps(unknown))
        yield Given(cloud.put("gs"), network=cloud.proxy.environment | around)
    used = {request.headers.get("authorization") for request in cloud.asked(GOOGLE)}
    assert used == {"Bearer of this machine"}


@contextlib.contextmanager
def public_on_google(cloud: Cloud) -> Iterator[Given]:
    yield Given(cloud.put("gs"))
    assert {request.headers.get("authorization") for request in cloud.asked(GOOGLE)} == {None}


@contextlib.contextmanager
def public_on_s3(cloud: Cloud) -> Iterator[Given]:
    wrong = ("RCLONE_S3_ACCESS_KEY_ID=of-another", "RCLONE_S3_SECRET_ACCESS_KEY=of-another")
    yield Given(cloud.put("s3", cloud.public), lines=(*_s3_lines()[:2], *wrong))


@contextlib.contextmanager
def google_by_hmac_keys(cloud: Cloud) -> Iterator[Given]:
    cloud.route(GOOGLE, cloud.domains[GOOGLE])
    yield Given(cloud.put("s3"), lines=_s3_lines()[2:])
    assert cloud.s3_requests


@contextlib.contextmanager
def azure_key(cloud: Cloud) -> Iterator[Given]:
    yield Given(cloud.put("az"), {"name": ACCOUNT, "key": KEY})
    assert all(
        request.headers["authorization"].startswith(f"SharedKey {ACCOUNT}:")
        for request in cloud.asked(HOST)
    )


def _azure_token() -> str:
    """A token as Entra ID signs it; Azurite does not check the signature."""
    now = int(time.time())
    claims = {
        "aud": "https://storage.azure.com",
        "iss": f"https://sts.windows.net/{_TENANT}/",
        "nbf": now - 60,
        "iat": now - 60,
        "exp": now + 3600,
        "sub": "model-download",
        "tid": _TENANT,
    }
    parts = ({"alg": "RS256", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
    return ".".join([part.rstrip("=") for part in encoded] + ["c2lnbmVk"])


@contextlib.contextmanager
def azure_machine(cloud: Cloud) -> Iterator[Given]:
    """The metadata service of a machine on Azure, at its fixed address."""
    answer = {
        "access_token": _azure_token(),
        "expires_in": "3600",
        "expires_on": str(int(time.time()) + 3600),
        "resource": "https://storage.azure.com",
        "token_type": "Bearer",
    }
    answers = _answers({"/metadata/identity/": ("application/json", json.dumps(answer))})
    with scripted_http.server(answers) as (address, seen):
        cloud.route("169.254.169.254", address)
        yield Given(cloud.put("az"), {"name": ACCOUNT})
    assert [path for _, path, *_ in seen if "resource=https%3A%2F%2Fstorage.azure.com" in path]


@contextlib.contextmanager
def azure_principal(cloud: Cloud) -> Iterator[Given]:
    """A service principal, by the variables of Azure's own clients."""
    login = "login.microsoftonline.com"
    here = f"https://{login}/{_TENANT}"
    metadata = {
        "token_endpoint": f"{here}/oauth2/v2.0/token",
        "authorization_endpoint": f"{here}/oauth2/v2.0/authorize",
        "issuer": f"{here}/v2.0",
    }
    token = {"access_token": _azure_token(), "expires_in": 3600, "token_type": "Bearer"}
    discovery = {
        "tenant_discovery_endpoint": f"{here}/v2.0/.well-known/openid-configuration",
        "api-version": "1.1",
        "metadata": [
            {"preferred_network": login, "preferred_cache": "login.windows.net", "aliases": [login]}
        ],
    }
    kind = "application/json"
    answers = {
        "/common/discovery/instance": (kind, json.dumps(discovery)),
        f"/{_TENANT}/v2.0/.well-known/": (kind, json.dumps(metadata)),
        f"/{_TENANT}/oauth2/v2.0/token": (kind, json.dumps(token)),
    }
    with scripted_http.server(_answers(answers)) as (address, seen):
        cloud.route(login, address)
        around = {
            "AZURE_TENANT_ID": _TENANT,
            "AZURE_CLIENT_ID": "model-download",
            "AZURE_CLIENT_SECRET": "of the principal",
        }
        network = cloud.proxy.environment | around
        yield Given(cloud.put("az"), {"name": ACCOUNT}, network=network)
    forms = [urllib.parse.parse_qs(body.decode()) for *_, body in seen if body]
    assert {form["client_secret"][0] for form in forms} == {"of the principal"}


@contextlib.contextmanager
def bucket_in_the_host_name(cloud: Cloud) -> Iterator[Given]:
    cloud.route(OWN, None)
    yield Given(cloud.put("s3"), lines=_s3_lines())
    assert {request.host for request in cloud.s3_requests} == {f"{cloud.host.bucket}.{OWN}"}


@contextlib.contextmanager
def own_authority(cloud: Cloud) -> Iterator[Given]:
    (cloud.creds / "authority.pem").write_bytes(cloud.proxy.authority.file.read_bytes())
    network = cloud.proxy.environment
    network.pop("SSL_CERT_FILE")
    yield Given(cloud.put("s3"), {"file": "authority.pem"}, _s3_lines(), network)


@contextlib.contextmanager
def proxy(cloud: Cloud) -> Iterator[Given]:
    host, _, port = cloud.proxy.address.removeprefix("http://").partition(":")
    network = {"SSL_CERT_FILE": str(cloud.proxy.authority.file)}
    values = {"host": host, "port": port, "hosts": "registry.example.com,10.0.0.0/8"}
    yield Given(cloud.put("s3"), values, _s3_lines(), network)


SITUATIONS: Mapping[str, tuple[Callable[[Cloud], Any], ...]] = {
    "the role of an AWS machine, or workload identity": (
        ec2_role,
        container_role,
        web_identity,
        keys_of_the_environment,
    ),
    "a profile of a shared credentials file": (profile,),
    "the identity of a Google Cloud machine": (google_machine,),
    "a public bucket on Google Cloud Storage": (public_on_google,),
    "a public bucket on S3": (public_on_s3,),
    "Google Cloud Storage with HMAC keys": (google_by_hmac_keys,),
    "Azure Blob Storage with a key": (azure_key,),
    "Azure Blob Storage with an identity (rclone 1.61 or newer)": (azure_machine, azure_principal),
    "addresses with the bucket in the host name": (bucket_in_the_host_name,),
    "a certificate authority of your own": (own_authority,),
    "a proxy": (proxy,),
}


def test_every_row_of_the_table_is_tested() -> None:
    assert list(SITUATIONS) == list(TABLE)


@pytest.mark.parametrize(
    ("row", "situation"),
    [(row, situation) for row, situations in SITUATIONS.items() for situation in situations],
    ids=lambda value: None if isinstance(value, str) else value.__name__,
)
def test_the_lines_of_a_row_give_access(
    cloud: Cloud, row: str, situation: Callable[[Cloud], Any]
) -> None:
    if "newer" in row:
        newest = available(lambda: rclone_service.rclone("newest"))
        cloud = replace(cloud, host=replace(cloud.host, rclone=newest))
    with situation(cloud) as given:
        cloud.set(*given.lines)
        code, log = cloud.download(given.uri, network=given.network)
        assert (code, cloud.host.files) == (1, {}), log
        cloud.proxy.requests.clear()

        cloud.set(*(_filled(line, given.values) for line in TABLE[row]))
        code, log = cloud.download(given.uri, network=given.network)

        assert code == 0, log
    assert set(cloud.host.files) == {"101/1/saved_model.pb", "101/1/variables/data"}


def _filled(line: str, values: Mapping[str, str]) -> str:
    return re.sub("<([a-z]+)>", lambda placeholder: values[placeholder[1]], line)


def test_azure_without_a_way_to_log_in_is_a_fault_of_the_credentials(cloud: Cloud) -> None:
    debian = available(lambda: rclone_service.rclone("debian"))
    cloud = replace(cloud, host=replace(cloud.host, rclone=debian))
    cloud.set(f"RCLONE_AZUREBLOB_ACCOUNT={ACCOUNT}", "RCLONE_AZUREBLOB_ENV_AUTH=true")

    code, log = cloud.download(cloud.put("az"))

    assert code == 1
    assert "access is refused: check the credentials in creds/bundle/.env" in log


def test_hosts_in_no_proxy_are_asked_without_the_proxy(cloud: Cloud) -> None:
    cloud.set(*_s3_lines(), "RCLONE_GCS_ANONYMOUS=true", f"NO_PROXY={OWN}")

    code, log = cloud.download(cloud.put("gs"), cloud.put("s3"))

    # The name of the S3 server is known to the proxy only.
    assert code == 1
    assert "FAILED 102/1" in log
    assert "the store cannot be reached" in log
    assert set(cloud.host.files) == {"101/1/saved_model.pb", "101/1/variables/data"}
    assert {request.host for request in cloud.proxy.requests} == {GOOGLE}


def test_an_unknown_authority_is_named_with_the_variable_that_trusts_it(cloud: Cloud) -> None:
    cloud.set(*_s3_lines())
    network = cloud.proxy.environment
    network.pop("SSL_CERT_FILE")

    code, log = cloud.download(cloud.put("s3"), network=network)

    assert code == 1
    assert "the certificate of the store is not trusted" in log
    assert "RCLONE_CA_CERT" in log


_OTHERS = (
    "RCLONE_S3_PROVIDER=AWS",
    "RCLONE_S3_REGION=eu-1",
    "RCLONE_S3_ENV_AUTH=true",
    "AWS_ACCESS_KEY_ID=of-the-others",
    "AWS_SECRET_ACCESS_KEY=of-the-others",
    "AWS_SESSION_TOKEN=of-the-others",
    "RCLONE_GCS_ENV_AUTH=true",
    "GOOGLE_APPLICATION_CREDENTIALS=/creds/of-the-others.json",
    "RCLONE_AZUREBLOB_KEY=b2YtdGhlLW90aGVycw==",
    "AZURE_CLIENT_SECRET=of-the-others",
)
"""Lines for other stores, in creds/bundle/.env."""


@pytest.mark.parametrize(
    ("scheme", "lines"),
    [
        ("s3", _s3_lines()),
        ("gs", ("RCLONE_GCS_ANONYMOUS=true",)),
        ("az", (f"RCLONE_AZUREBLOB_ACCOUNT={ACCOUNT}", f"RCLONE_AZUREBLOB_KEY={KEY}")),
    ],
    ids=["s3", "gs", "az"],
)
def test_the_credentials_of_a_store_replace_all_others(
    cloud: Cloud, scheme: str, lines: tuple[str, ...]
) -> None:
    cloud.set(*_OTHERS)
    cloud.set(*lines, file="team-a.env")

    code, log = cloud.download(cloud.put(scheme), store="team-a")

    assert code == 0, log
    assert "of-the-others" not in str(cloud.proxy.requests)


def test_a_store_without_an_access_key_does_not_get_that_of_another(cloud: Cloud) -> None:
    cloud.set(*_OTHERS)
    # An operator's mistake: the file has no keys.
    lines = ("RCLONE_S3_ENV_AUTH=true", "AWS_EC2_METADATA_DISABLED=true")
    cloud.set(*_s3_lines()[:2], *lines, file="team-a.env")

    code, log = cloud.download(cloud.put("s3"), store="team-a")

    assert code == 1
    assert "check the credentials in creds/bundle/team-a.env" in log
    assert "IMDS hop limit" in log
    assert "of-the-others" not in str(cloud.proxy.requests)


def test_a_store_on_google_has_a_service_account_of_its_own(cloud: Cloud) -> None:
    with token_endpoint() as ours, token_endpoint() as others:
        cloud.host.trust(others.service_account)
        (cloud.creds / "team-a.json").write_text(ours.service_account)
        cloud.set(f"RCLONE_GCS_SERVICE_ACCOUNT_FILE={cloud.creds}/team-a.json", file="team-a.env")

        code, log = cloud.download(cloud.put("gs"), store="team-a")

        assert code == 0, log
        assert ours.let_in
        assert not others.let_in
