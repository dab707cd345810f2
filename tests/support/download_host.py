"""Runs the rendered download.sh and models.txt of a bundle on a target host.

model_download's container has the folders /models, /creds and /files. Here they are folders of the
bundle, and variables of the script name them.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from renderers.composition import Composition, Model
from tests.builders import make_composition, make_model
from tests.services.gcs import Gcs
from tests.services.ministack import ACCESS_KEY, SECRET_KEY
from tests.support.target_host import DeployedBundle

_LIMIT_SECONDS = 120
FILES = {
    "tensorflow": ("saved_model.pb", "variables/data"),
    "triton": ("config.pbtxt", "1/model.onnx"),
    "openvino": ("model.xml", "model.bin"),
}
"""The content of an artifact of each platform."""


def model(
    model_id: str, version: str, bucket: str, platform: str = "tensorflow", scheme: str = "s3"
) -> Model:
    uri = f"{scheme}://{bucket}/models/{model_id}/{version}"
    return make_model(model_id, version=version, platform=platform, artifact={"uri": uri})


def composition(*models: Model) -> Composition:
    basis = make_composition(1)
    return Composition(bundle=basis.bundle, models=models, proxy=basis.proxy)


@dataclass(frozen=True, slots=True)
class Host:
    """A target host that downloads the models of its bundle from one bucket."""

    bundle: DeployedBundle
    shell: tuple[str, ...]
    rclone: Path
    address: str
    bucket: str
    """A bucket of this name on either storage."""
    client: Any
    gcs: Gcs
    programs: tuple[Path, ...] = ()
    """Folders of programs that come before those of the machine."""

    def upload(self, *models: Model) -> None:
        """Put a model's files at the place of its artifact."""
        for model in models:
            scheme, _, path = model.artifact.uri.partition("://")
            folder = path.removeprefix(f"{self.bucket}/")
            for file in FILES[model.serving.platform]:
                body = f"{model.id} {model.version} {file}".encode()
                if scheme == "gs":
                    self.gcs.put(self.bucket, f"{folder}/{file}", body)
                else:
                    self.client.put_object(Bucket=self.bucket, Key=f"{folder}/{file}", Body=body)

    def trust(self, service_account: str) -> None:
        """Put a service account at the place in the bundle's README."""
        (self.bundle.directory / "creds/bundle/gcs.json").write_text(service_account)

    @property
    def credentials(self) -> dict[str, str]:
        return {
            "RCLONE_S3_PROVIDER": "Minio",
            "RCLONE_S3_ACCESS_KEY_ID": ACCESS_KEY,
            "RCLONE_S3_SECRET_ACCESS_KEY": SECRET_KEY,
            "RCLONE_S3_ENDPOINT": self.address,
        }

    def download(
        self, wanted: Composition, credentials: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Exit code and log of model_download after an update to `wanted`."""
        self.bundle.replace_base(wanted)
        generated = self.bundle.folder / "base/model-serving/model-download"
        listed = generated / "models.txt"
        files = f" local:{self.bundle.directory}/files"
        listed.write_text(listed.read_text().replace(" local:/files", files))
        # Of the caller's environment only the path. AWS_CA_BUNDLE, for one, breaks Debian's rclone.
        env = {
            "PATH": ":".join(map(str, [*self.programs, self.rclone.parent, os.environ["PATH"]])),
            "HOME": str(self.bundle.folder),
            "LIST": str(listed),
            "MAP": str(self.bundle.folder / "base/bundle/nginx/models.map"),
            "DEST": str(self.models),
            "ROUTER": str(self.router),
            "CREDS": str(self.bundle.directory / "creds/bundle"),
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_GCS_ENDPOINT": self.gcs.endpoint,
            "RCLONE_GCS_SERVICE_ACCOUNT_FILE": str(self.bundle.directory / "creds/bundle/gcs.json"),
        }
        command = [*self.shell, str(generated / "download.sh")]
        chosen = self.credentials if credentials is None else credentials
        done = subprocess.run(
            command,
            env=env | dict(chosen),
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    @property
    def models(self) -> Path:
        return self.bundle.folder / "downloaded"

    @property
    def router(self) -> Path:
        """The volume that model_download shares with the router."""
        return self.bundle.folder / "router"

    @property
    def files(self) -> dict[str, str]:
        """The files that engines see below /models now."""
        return {
            # To read a pipe would take for ever.
            str(path.relative_to(self.models)): path.read_text() if path.is_file() else "no file"
            for path in self._visible(self.models)
        }

    def _visible(self, folder: Path) -> Iterator[Path]:
        # Triton follows links, and neither engine reads hidden folders.
        for path in folder.iterdir():
            if path.name.startswith("."):
                continue
            if path.is_dir():
                yield from self._visible(path)
            else:
                yield path


def s3_client(address: str) -> Any:
    """A client of an S3 server of the tests."""
    return boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
    )
