"""What the composition decides in a service, and what a custom template may set as it likes.

Only the services of custom templates are compared by these rules; `diff` compares the results. The
composition and the settings decide the keys in `_DECIDED`. Every other key is free: the template
may change it, omit it or add it. Within the decided keys, `decided` and `comparable` leave out what
does not follow from the composition either:

* the options of a mount: its source and its target are decided;
* the times of a health check, and its command, as long as it asks the same port (`Probe`);
* how a service gets its GPUs: their number, or the devices, are decided (`Gpus`);
* the form of a value: a list of `KEY=value` is a mapping, a mapping of networks is a list.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from renderers.composition import Model
from renderers.gate.parsers import seconds, size

_DECIDED: Final = frozenset(
    {
        *("image", "depends_on", "command", "entrypoint", "environment", "env_file", "labels"),
        *("networks", "ports", "volumes", "healthcheck", "deploy"),
    }
)
"""The keys of a service that follow from the composition and the settings."""
_MAY_BE_CHOSEN: Final = frozenset({"shm_size", "start_period"})
_MAPPINGS: Final = ("environment", "labels")
_NVIDIA_CDI: Final = "nvidia.com/gpu="
_IGNORES: Final = re.compile(r"(\|\||;|&)\s*(true|:|exit\s+0|echo\b[^|;&]*)\s*$")
"""The end of a shell command that succeeds whatever its test found."""
_SUCCEEDS: Final = frozenset({"true", "/bin/true", "/usr/bin/true", ":", "exit", "echo"})
"""Commands that ask nothing."""
_PORT: Final = re.compile(r"(?:127\.0\.0\.1|localhost)[:/]([0-9]+)")
_PART: Final = re.compile(r"(?:\$\{[^}]*\}|[^:$]|\$)+")
"""A part of a mount in its short form; a `:` inside `${…}` separates nothing."""


class Condition:
    """An expected value that more than one found value meets. Its repr says what it expects.

    No abstract base class: `diff` asks for each value of each service whether it is a condition,
    and that question costs several times as much for those.
    """

    def is_in(self, found: Any) -> bool:
        """Whether `found` meets the condition."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, repr=False)
class Mount:
    """A mount, by what the composition decides about it."""

    source: str
    target: str
    written: Any = field(compare=False)
    """The entry in the file."""

    def __repr__(self) -> str:
        return repr(self.written)


@dataclass(frozen=True, slots=True, repr=False)
class RunsOnce(Condition):
    """A restart policy that lets a service end once it has succeeded."""

    def is_in(self, found: Any) -> bool:
        """Whether it lets the service end: never, or after a number of retries."""
        return found == "no" or (isinstance(found, str) and found.split(":")[0] == "on-failure")

    def __repr__(self) -> str:
        return "'no' or on-failure, because the models' services wait for its end"


@dataclass(frozen=True, slots=True, repr=False)
class Probe(Condition):
    """A health check that asks the port that the bundle's own asks, if it asks one."""

    own: Sequence[str]
    """The bundle's own command."""

    def is_in(self, found: Any) -> bool:
        """The same command, or one that asks the same port and can fail."""
        if found == self.own:
            return True
        words = _probe_words(found)
        if not words or words[0] in _SUCCEEDS or _IGNORES.search(" ".join(words)):
            return False
        port = _PORT.search(" ".join(self.own))
        return port is None or port[1] in re.findall("[0-9]+", " ".join(words))

    def __repr__(self) -> str:
        return f"{list(self.own)!r}, or another command that asks the same port and can fail"


@dataclass(frozen=True, slots=True, repr=False)
class Gpus(Condition):
    """The requests for GPUs of a service.

    All GPUs may be requested by a device request, or by a runtime or a default runtime of the host
    without any request. Everything else needs exactly one device request.
    """

    wanted: Mapping[str, Any] | None
    """The expected request; None for no GPU."""
    are_optional: bool = False
    """Whether the service may have no request."""

    def is_in(self, found: Any) -> bool:
        """Whether these requests ask for the same GPUs."""
        if not found:
            return self.are_optional or self.wanted is None
        if self.wanted is None or (len(found) > 1 and not self.are_optional):
            return False
        return all(self._is_wanted(request, self.wanted) for request in found)

    def _is_wanted(self, request: Any, wanted: Mapping[str, Any]) -> bool:
        if not isinstance(request, Mapping) or _amount(request) != _amount(wanted):
            return False
        capabilities = request.get("capabilities")
        if not isinstance(capabilities, list):
            return False
        if not all(capability in capabilities for capability in wanted["capabilities"]):
            return False
        others = wanted.keys() - {"capabilities", "count", "device_ids"}
        return all(request.get(key) == wanted[key] for key in others)

    def __repr__(self) -> str:
        if self.wanted is None:
            return "no request for a GPU"
        return f"[{dict(self.wanted)!r}]" + (" or no request" if self.are_optional else "")


@dataclass(frozen=True, slots=True, repr=False)
class Bytes(Condition):
    """An amount of memory, in any unit."""

    amount: int
    written: str
    """As the bundle's own templates write it."""

    def is_in(self, found: Any) -> bool:
        """Whether `found` is this amount."""
        return size(found) == self.amount

    def __repr__(self) -> str:
        return repr(self.written)


@dataclass(frozen=True, slots=True, repr=False)
class Duration(Condition):
    """A time, in any units."""

    seconds: int

    def is_in(self, found: Any) -> bool:
        """Whether `found` is this time."""
        return seconds(found) == self.seconds

    def __repr__(self) -> str:
        return repr(f"{self.seconds}s")


_ALL_GPUS: Final = {"capabilities": ["gpu"], "count": "all"}


def decided(name: str, service: Mapping[str, Any], chosen: Collection[str] = ()) -> dict[str, Any]:
    """What a custom template must keep of the service `name`, in the form of `comparable`.

    `chosen` has the free keys (`shm_size`, `start_period`) that the composition sets in this case.
    """
    kept = {key: value for key, value in service.items() if key in _DECIDED or key in chosen}
    if "volumes" in kept:
        kept["volumes"] = [_mount(entry) for entry in kept["volumes"]]
    if "healthcheck" in kept:
        check = kept["healthcheck"]
        kept["healthcheck"] = {key: check[key] for key in check if key in chosen} | {
            "test": Probe(check["test"])
        }
    if "deploy" in kept:
        kept["deploy"] = _with_devices(kept["deploy"], _decided_gpus(service))
    if name == "model_download":
        kept["restart"] = RunsOnce()
    return kept


def comparable(service: Any) -> Any:
    """A service of a file, in the form in which `decided` describes it. Any other value unchanged.

    A part that has no such form is unchanged too, so that the comparison reports it.
    """
    if not isinstance(service, dict):
        return service
    found: dict[str, Any] = {"restart": "no"} | service
    for key in _MAPPINGS:
        found[key] = _as_mapping(found.get(key, {}))
    networks, env_file = found.get("networks"), found.get("env_file")
    if isinstance(networks, dict):
        found["networks"] = list(networks)
    if env_file is not None:
        entries = env_file if isinstance(env_file, list) else [env_file]
        found["env_file"] = [
            entry.get("path") if isinstance(entry, dict) else entry for entry in entries
        ]
    if isinstance(found.get("depends_on"), dict):
        found["depends_on"] = {
            key: _without_required(value) for key, value in found["depends_on"].items()
        }
    found["volumes"] = mounts(service)
    # Without this the service would have two keys for the same requests.
    requests = [*_gpu_requests(service)]
    found.pop("gpus", None)
    found["deploy"] = _with_devices(found.get("deploy", {}), requests)
    return found


def free_keys_set_by(model: Model) -> frozenset[str]:
    """The keys which are free in general, but decided for this model: its composition sets them."""
    serving = model.serving
    given = serving.model_fields_set & _MAY_BE_CHOSEN
    return frozenset(key for key in given if getattr(serving, key) is not None)


def _mount(entry: Any) -> Any:
    if isinstance(entry, str):
        parts = _PART.findall(entry)
        return Mount(parts[0], parts[1].rstrip("/"), entry) if len(parts) > 1 else entry
    if isinstance(entry, dict) and isinstance(entry.get("target"), str):
        source = entry.get("source")
        return Mount(source if isinstance(source, str) else "", entry["target"].rstrip("/"), entry)
    return entry


def mounts(service: Mapping[str, Any]) -> list[Any]:
    """What a service has at paths of its container; an entry that is no `Mount` is unchanged."""
    volumes = service.get("volumes")
    entries = volumes if isinstance(volumes, list) else [] if volumes is None else [volumes]
    return [*map(_mount, entries), *_other_mounts(service)]


def _other_mounts(service: Mapping[str, Any]) -> Iterator[Mount]:
    """The other keys that put something at a path of the container."""
    tmpfs = service.get("tmpfs", [])
    for entry in tmpfs if isinstance(tmpfs, list) else [tmpfs]:
        yield Mount("", str(entry).split(":")[0].rstrip("/"), f"tmpfs {entry}")
    for key in ("configs", "secrets"):
        entries = service.get(key)
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and "target" in entry:
                yield Mount("", str(entry["target"]), entry)


def _as_mapping(value: Any) -> Any:
    """A list of `KEY=value` as a mapping. Unchanged if it is something else or has a key twice."""
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        return value
    pairs = {key: text for key, _, text in (entry.partition("=") for entry in value)}
    return pairs if len(pairs) == len(value) else value


def _without_required(dependency: Any) -> Any:
    if isinstance(dependency, dict) and dependency.get("required") is True:
        return {key: value for key, value in dependency.items() if key != "required"}
    return dependency


def _with_devices(deploy: Any, devices: Any) -> Any:
    """A `deploy` section with these device requests."""
    match deploy:
        case {"resources": {"reservations": dict(reservations), **resources}, **others}:
            return others | {
                "resources": resources | {"reservations": reservations | {"devices": devices}}
            }
        case _:
            return deploy


def _decided_gpus(service: Mapping[str, Any]) -> Gpus:
    devices = service["deploy"].get("resources", {}).get("reservations", {}).get("devices")
    if devices:
        return Gpus(devices[0])
    if service.get("runtime") == "nvidia":
        return Gpus(_ALL_GPUS, are_optional=True)
    return Gpus(None)


def _gpu_requests(service: Mapping[str, Any]) -> Iterator[Any]:
    """The requests for GPUs, in whichever of its keys. Requests for other devices are free."""
    match service.get("deploy"):
        case {"resources": {"reservations": {"devices": list(requests)}}}:
            yield from filter(_is_for_gpus, requests)
        case {"resources": {"reservations": {"devices": other}}}:
            yield other
        case _:
            pass
    match service.get("gpus"):
        case None:
            pass
        case list(requests):
            for request in requests:
                is_mapping = isinstance(request, dict)
                yield {"capabilities": ["gpu"]} | request if is_mapping else request
        case other:
            yield {"capabilities": ["gpu"], "count": other}
    devices = service.get("devices")
    for device in devices if isinstance(devices, list) else []:
        if str(device).startswith(_NVIDIA_CDI):
            yield {"capabilities": ["gpu"], "device_ids": [device]}


def _is_for_gpus(request: Any) -> bool:
    match request:
        case {"driver": "nvidia"}:
            return True
        case {"device_ids": [name, *_]} if str(name).startswith(_NVIDIA_CDI):
            return True
        case {"capabilities": list(capabilities)}:
            return "gpu" in capabilities
        case _:
            return not isinstance(request, dict)


def _amount(request: Mapping[str, Any]) -> Any:
    """The number of GPUs of a request, "all", or the ids of its devices."""
    ids = request.get("device_ids")
    if ids is not None and request.get("count") is not None:
        return None  # Compose refuses both
    if isinstance(ids, list):
        names = [str(name).removeprefix(_NVIDIA_CDI) for name in ids]
        return "all" if names == ["all"] else names
    count = request.get("count", "all")
    return "all" if count == -1 else count


def _probe_words(test: Any) -> list[str]:
    """The words of a health check's command; none if it checks nothing."""
    if isinstance(test, str):
        return test.split()
    if not isinstance(test, list) or not all(isinstance(word, str) for word in test):
        return []
    match test:
        case ["CMD" | "CMD-SHELL", *words]:
            return " ".join(words).split()
        case _:
            return []
