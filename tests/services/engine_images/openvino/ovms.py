#!/usr/bin/python3
"""Stands in for OpenVINO Model Server: no package index and no Debian release has its binary.

What an update of a bundle depends on is as in the sources (openvinotoolkit/model_server, commit
7e4df0c7):

* Both ports are open before a model is loaded. The APIs are those of TensorFlow Serving.
* The folder is read every `--file_system_poll_wait_seconds`; 0 = once, at the start
  (`docs/parameters.md`). The highest number is wanted.
* A wanted version is loaded first, then the others are retired
  (`ModelManager::reloadModelWithVersions`). If it cannot be loaded, the next lower one in the
  folder is wanted, and the failed one is tried again at each reading (`getVersionsToChange`).
"""

import argparse
import sys
import threading
import time
from pathlib import Path

from versions import LOADING, UNKNOWN, CannotLoad, Versions, log, serve_grpc, serve_rest


def parsed():
    parser = argparse.ArgumentParser(prog="ovms", allow_abbrev=False)
    for name in ("port", "rest_port", "nireq", "grpc_workers", "rest_workers", "grpc_max_threads"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("model_name", "model_path"):
        parser.add_argument(f"--{name}", required=True)
    for name in (
        *("batch_size", "shape", "layout", "plugin_config", "target_device", "log_level"),
        *("model_version_policy", "metrics_list", "cache_dir", "grpc_channel_arguments"),
    ):
        parser.add_argument(f"--{name}")
    parser.add_argument("--metrics_enable", action="store_true")
    parser.add_argument("--file_system_poll_wait_seconds", type=int, default=1)
    return parser.parse_args()


def reload(versions):
    found = versions.on_disk()
    if found is None:
        log(f"Couldn't access path of model {versions.name}")
        return
    for version in sorted(found, reverse=True):
        if version not in versions.loaded():
            versions.set(version, LOADING)
            try:
                versions.load(version, found[version])
            except CannotLoad as error:
                versions.set(version, LOADING, UNKNOWN, "UNKNOWN")
                log(f"Error occurred while loading version {version}: {error.args[1]}")
                continue
        retire_all_but(versions, version)
        return
    retire_all_but(versions, None)


def retire_all_but(versions, kept):
    for version in versions.loaded():
        if version != kept:
            versions.unload(version)


def main():
    flags = parsed()
    if not flags.port:
        sys.exit("port and model_path are needed")
    versions = Versions(flags.model_name, Path(flags.model_path), "model.xml")
    server = serve_grpc(versions, flags.port, 16)
    if flags.rest_port:
        serve_rest(versions, flags.rest_port, "/metrics" if flags.metrics_enable else None)

    def watch():
        while True:
            reload(versions)
            if flags.file_system_poll_wait_seconds <= 0:
                return
            time.sleep(flags.file_system_poll_wait_seconds)

    threading.Thread(target=watch, daemon=True).start()
    server.wait_for_termination()


main()
