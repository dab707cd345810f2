#!/usr/bin/python3
"""Stands in for TensorFlow Serving, of which no registry has a binary that runs without its image.

What an update of a bundle depends on is as in the sources (tensorflow/serving, commit 9d981c5c):

* Flags (`model_servers/main.cc`): `--name=value`; the last of several wins; a switch needs no
  value. The original prints an unknown flag and goes on. This one refuses it, so that a test sees
  it.
* No port is open before the first version is loaded (`Server::BuildAndStart` calls
  `ServerCore::Create`, which waits in `WaitUntilModelsAvailable`). If that version cannot be loaded
  the program ends. An absent or empty folder is waited for.
* The folder is read every `--file_system_poll_wait_seconds`: 0 = once, below 0 = never
  (`FileSystemStoragePathSource::SetAspiredVersionsCallback`). The highest number is wanted. A
  folder without a number unloads every version, because `servable_versions_always_present` is off;
  an absent folder changes nothing (`PollFileSystemForServable`).
* A wanted version is loaded first, then the others are unloaded (`AvailabilityPreservingPolicy`).
* A failing load is tried `--max_num_load_retries` times more (5), with
  `--load_retry_interval_micros` between (one minute), in state LOADING; then the state is END with
  the error (`Retry`, `LoaderHarness::Load`). After the start, `--num_load_threads` is 0, so loads
  run in the thread that manages the versions: meanwhile no other change of the folder takes effect.
  The loaded version keeps answering.
* A number that is loaded, or has failed, is not loaded again while it stays in the folder.
* States of all versions since the start are reported (`ServableStateMonitor`), the highest first.
* `--batching_parameters_file` needs `--enable_batching`; that file and the one of
  `--monitoring_config_file` are parsed as text of their messages.

Not played: labels, other version policies, several models, warm-up, TLS.
"""

import sys
import threading
import time
from pathlib import Path

import wire_pb2 as wire
from google.protobuf import text_format
from versions import END, LOADING, START, CannotLoad, Versions, log, serve_grpc, serve_rest

NUMBERS = {
    "port": 8500,
    "rest_api_port": 0,
    "rest_api_num_threads": 8,
    "rest_api_timeout_in_ms": 30_000,
    "model_config_file_poll_wait_seconds": 0,
    "num_load_threads": 0,
    "num_unload_threads": 0,
    "max_num_load_retries": 5,
    "load_retry_interval_micros": 60_000_000,
    "file_system_poll_wait_seconds": 1,
    "tensorflow_session_parallelism": 0,
    "tensorflow_intra_op_parallelism": 0,
    "tensorflow_inter_op_parallelism": 0,
    "grpc_max_threads": 16,
    "num_request_iterations_for_warmup": 0,
    "num_tflite_pools": 0,
    "num_tflite_interpreters_per_pool": 0,
}
FRACTIONS = {"per_process_gpu_memory_fraction": 0.0}
TEXTS = dict.fromkeys(
    (
        *("grpc_socket_path", "batching_parameters_file", "model_config_file", "model_base_path"),
        *("tensorflow_session_config_file", "ssl_config_file", "platform_config_file"),
        *("saved_model_tags", "grpc_channel_arguments", "monitoring_config_file"),
        *("thread_pool_factory_config_file", "mixed_precision"),
    ),
    "",
) | {"model_name": "default"}
SWITCHES = dict.fromkeys(
    (
        *("rest_api_enable_cors_support", "enable_batching"),
        *("allow_version_labels_for_unavailable_models", "enable_per_model_batching_parameters"),
        *("flush_filesystem_caches", "use_alts_credentials", "enable_model_warmup", "version"),
        *("remove_unused_fields_from_bundle_metagraph", "prefer_tflite_model"),
        *("enable_signature_method_name_check", "xla_cpu_compilation_enabled"),
        *("xla_gpu_compilation_enabled", "enable_profiler", "skip_initialize_tpu"),
        *("enable_grpc_healthcheck_service", "enable_serialization_as_tensor_content"),
    ),
    False,
)
MANAGE_SECONDS = 0.1


def parsed(arguments):
    """The flags by name. Ends the program for one that the original would not accept."""
    flags = NUMBERS | FRACTIONS | TEXTS | SWITCHES
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if name not in flags or not argument.startswith("--"):
            sys.exit(f"unknown argument: {argument}")
        if not equals and name not in SWITCHES:
            sys.exit(f"flag {name} needs a value")
        try:
            if name in SWITCHES:
                flags[name] = {"": True, "true": True, "false": False}[value.lower()]
            elif name in TEXTS:
                flags[name] = value
            else:
                flags[name] = int(value) if name in NUMBERS else float(value)
        except (ValueError, KeyError):
            sys.exit(f'Couldn\'t interpret value "{value}" for flag {name}.')
    return flags


class Manager:
    """The source of versions and their manager. `started` is set once one is loaded; `failure` is
    the text of the first load that failed.
    """

    def __init__(self, versions, flags):
        self.versions, self.flags = versions, flags
        self.wanted, self.folders, self.handled = None, {}, set()
        self.started, self.failure = threading.Event(), ""

    def start(self):
        threading.Thread(target=self.poll, daemon=True).start()
        threading.Thread(target=self.manage, daemon=True).start()

    def poll(self):
        seconds = self.flags["file_system_poll_wait_seconds"]
        while seconds >= 0:
            found = self.versions.on_disk()
            if found is None:
                log(f"Could not find base path for servable {self.versions.name}")
            else:
                if not found:
                    log(
                        f"No versions of servable {self.versions.name} found. Did you forget to "
                        "name your leaf directory as a number (eg. '/1/')?"
                    )
                self.folders, self.wanted = found, max(found, default=0)
            if seconds == 0:
                return
            time.sleep(seconds)

    def manage(self):
        while True:
            wanted = self.wanted
            if wanted is not None:
                self.handled &= {wanted}
                self.next_action(wanted)
            time.sleep(MANAGE_SECONDS)

    def next_action(self, wanted):
        loaded = self.versions.loaded()
        others = [version for version in loaded if version != wanted]
        if others and (not wanted or wanted in loaded or len(others) > 1):
            self.versions.unload(others[0])
        elif wanted and wanted not in loaded and wanted not in self.handled:
            self.handled.add(wanted)
            self.load(wanted)

    def load(self, version):
        self.versions.set(version, START)
        self.versions.set(version, LOADING)
        log(f"Loading servable version {{name: {self.versions.name} version: {version}}}")
        for tried in range(self.flags["max_num_load_retries"] + 1):
            if tried:
                time.sleep(max(0, self.flags["load_retry_interval_micros"]) / 1e6)
                log(f"Retrying of Loading servable, retry: {tried}")
            try:
                self.versions.load(version, self.folders.get(version, str(version)))
            except CannotLoad as error:
                code, message = error.args
                log(f"Loading servable version {version} failed: {message}")
            else:
                self.started.set()
                return
        self.versions.set(version, END, code, message)
        self.failure = f"1 model(s) did not become available: {message}"
        self.started.set()


def message_in(path, message):
    try:
        return text_format.Parse(Path(path).read_text(), message)
    except (OSError, text_format.ParseError) as error:
        sys.exit(f"Failed to start server. Error: {path}: {error}")


def main():
    flags = parsed(sys.argv[1:])
    if not flags["model_base_path"]:
        sys.exit("Failed to start server. Error: model_base_path is empty")
    if flags["batching_parameters_file"]:
        if not flags["enable_batching"]:
            sys.exit(
                "Failed to start server. Error: server_options.batching_parameters_file is set "
                "without setting server_options.enable_batching to true."
            )
        batching = message_in(flags["batching_parameters_file"], wire.BatchingParameters())
        log(f"Batching: {' '.join(str(batching).split())}")
    versions = Versions(flags["model_name"], Path(flags["model_base_path"]), "saved_model.pb")
    manager = Manager(versions, flags)
    manager.start()
    manager.started.wait()
    if manager.failure:
        sys.exit(f"Failed to start server. Error: {manager.failure}")
    server = serve_grpc(versions, flags["port"], flags["grpc_max_threads"])
    if flags["rest_api_port"] and flags["rest_api_port"] != flags["port"]:
        metrics = None
        if flags["monitoring_config_file"]:
            config = message_in(flags["monitoring_config_file"], wire.MonitoringConfig())
            if config.prometheus_config.enable:
                metrics = config.prometheus_config.path or "/monitoring/prometheus/metrics"
        serve_rest(versions, flags["rest_api_port"], metrics)
    server.wait_for_termination()


main()
