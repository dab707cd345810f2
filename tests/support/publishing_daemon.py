"""A real daemon that publishes to the S3 server of the engine tests, with the engine's images."""

import contextlib
from pathlib import Path

from botocore.exceptions import ClientError

from tests.services.images import Images
from tests.support.daemon_process import DaemonProcess
from tests.support.engine_host import Store
from tests.support.scenes import GOLDEN

BUCKET = "bundles"
LIVE_TREE = f"{GOLDEN}/docker-compose-gen"


def bucket_url(store: Store) -> str:
    """The bucket, as settings name it."""
    return f"s3://{BUCKET}?endpoint={store.endpoint}&region=us-east-1"


def credentials(store: Store) -> dict[str, str]:
    """The variables with the keys of the store."""
    return {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key}


def publishing_daemon(store: Store, images: Images, folder: Path) -> DaemonProcess:
    """The daemon on a new bucket, with its journal and daemon.log in the folder."""
    with contextlib.closing(store.client()) as client:
        client.create_bucket(Bucket=BUCKET)
    environment = credentials(store) | {
        "REBUNDLE_RENDER__DOWNLOAD_IMAGE": images.rclone,
        "REBUNDLE_RENDER__ROUTER_IMAGE": images.nginx,
    }
    return DaemonProcess(
        bucket_url(store), folder / "j.db", folder / "daemon.log", environment=environment
    )


def stamp(store: Store) -> str:
    """The stamp of the live tree; empty if there is none yet."""
    with contextlib.closing(store.client()) as client:
        try:
            found = client.get_object(Bucket=BUCKET, Key=f"{LIVE_TREE}/base/.rebundle.json")
        except ClientError:
            return ""
        return found["Body"].read().decode()
