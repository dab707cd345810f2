"""What a bundle is made of: its composition and the render defaults, as frozen values.

A composition is parsed once, where it enters the process, and all its errors are reported together.
Its canonical JSON (used for the digest and in the manifest) parses to an equal value. The rules for
single fields are in `identifiers`; the canonical form is in `values`.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from renderers import identifiers as rules
from renderers import platforms
from renderers.platforms import PLATFORMS
from renderers.values import (
    BundleName,
    Scope,
    Value,
    canonical_digest,
    canonical_json,
    known_fields,
)

MAX_MODELS: Final = 10_000
"""The upper bound for every bundle; a setting can lower it (`limits`)."""
LARGEST_SERVING_VERSION: Final = 2**63 - 1
"""The engines read the name of a version's directory as a signed integer of 64 bits."""
_LARGEST_FORMER: Final = 2**31 - 1
"""The largest serving_version of the releases before 64-bit numbers (ADR 37)."""
_LARGEST_PARAMETER: Final = 2**31 - 1
_MAX_EXTRAS: Final = 100
"""Variables, and arguments, of one model."""
DEFAULT_START_PERIOD: Final = 120
"""Seconds that an engine may take to load a model that says nothing else."""


class Artifact(Value):
    """The location of a model's files. The digest is passed through, not checked (protocol 3)."""

    uri: rules.ArtifactUri
    digest: rules.Digest | None = None
    size_bytes: Annotated[int, Field(strict=True, ge=0)] | None = None
    store: rules.StoreName | None = None
    """The store whose credentials a host has in creds/bundle/<store>.env; None: the default ones.
    """

    @model_validator(mode="after")
    def _agrees_with_its_scheme(self) -> Self:
        scheme = self.uri.partition("://")[0]
        if scheme == "https" and self.digest is None:
            raise ValueError(
                "must have a digest with an https:// URI: a server may answer with anything"
            )
        if self.store is not None and scheme not in rules.STORES_WITH_CREDENTIALS:
            raise ValueError(f"must have no store with a {scheme}:// URI: it has no credentials")
        return self


class Amounts(Value):
    """CPUs (decimal text) and memory (bytes).

    None takes the render defaults, and no limit if they have none; 0 means no limit.
    """

    cpus: rules.Cpus | None = None
    memory: rules.Memory | None = None


class Resources(Value):
    """The resource limits and reservations of a service, as in Compose."""

    limits: Amounts = Amounts()
    reservations: Amounts = Amounts()


class Gpu(Value):
    """The GPUs that a service can use: a number of them, all, or certain devices.

    `driver` is the one that a request names: None leaves the choice to Docker, `cdi` stands for the
    Container Device Interface, which names devices in its own way.
    """

    count: Annotated[int, Field(strict=True, ge=1, le=1024)] | Literal["all"] | None = None
    device_ids: Annotated[tuple[rules.DeviceId, ...], Field(min_length=1, max_length=64)] | None = (
        None
    )
    driver: Literal["nvidia", "cdi"] | None = None
    memory_fraction: rules.Fraction | None = None
    """The share of each GPU's memory that the engine takes at most."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.count is None) == (self.device_ids is None):
            raise ValueError("must have exactly one of count and device_ids")
        return self

    @model_validator(mode="after")
    def _ids_agree_with_the_driver(self) -> Self:
        if self.driver == "cdi" and self.device_ids is None:
            raise ValueError(
                "must have device_ids such as nvidia.com/gpu=0 or nvidia.com/gpu=all with the "
                "driver cdi: it has no count"
            )
        for device in self.device_ids or ():
            if rules.is_cdi_device(device) != (self.driver == "cdi"):
                raise ValueError(
                    f"must name devices as the driver reads them: {device} is "
                    + (
                        "no name of a CDI device, such as nvidia.com/gpu=0"
                        if self.driver == "cdi"
                        else "the name of a CDI device, which needs driver: cdi"
                    )
                )
        return self


_Positive = Annotated[int, Field(strict=True, ge=1, le=_LARGEST_PARAMETER)]


_ENGINES_MAX_BATCH_SIZE: Final = 1000
"""The engine's max_batch_size if none is given."""


class BatchingParameters(Value):
    """TensorFlow Serving's BatchingParameters, by its own field names."""

    max_batch_size: _Positive | None = None
    batch_timeout_micros: Annotated[int, Field(strict=True, ge=0, le=_LARGEST_PARAMETER)] | None = (
        None
    )
    max_enqueued_batches: _Positive | None = None
    num_batch_threads: _Positive | None = None
    allowed_batch_sizes: (
        Annotated[tuple[_Positive, ...], Field(min_length=1, max_length=64)] | None
    ) = None
    pad_variable_length_inputs: Annotated[bool, Field(strict=True)] | None = None
    thread_pool_name: rules.ThreadPoolName | None = None
    enable_large_batch_splitting: Annotated[bool, Field(strict=True)] | None = None
    max_execution_batch_size: _Positive | None = None
    """The engine reads it only if `enable_large_batch_splitting` is true."""

    @property
    def fault(self) -> str:
        """Why the engine would refuse to start with these parameters; empty if it would not.

        The rules are those of the engine's sources (2.20: bundle_factory_util.cc and
        batching_session.cc). Only the intake checks them: as rules of the value, they would make
        compositions unreadable that are published already.
        """
        return self._splitting_fault or self._sizes_fault

    @property
    def _splitting_fault(self) -> str:
        if not self.enable_large_batch_splitting:
            return ""
        executed, largest = self.max_execution_batch_size, self.max_batch_size
        if executed is None and largest is None:
            return (
                "enable_large_batch_splitting needs max_execution_batch_size or max_batch_size: "
                "without them the engine would split to batches of size 0"
            )
        if executed is not None and executed > (largest or _ENGINES_MAX_BATCH_SIZE):
            return (
                f"max_execution_batch_size ({executed}) must be at most max_batch_size "
                f"({largest or _ENGINES_MAX_BATCH_SIZE})"
            )
        return ""

    @property
    def _sizes_fault(self) -> str:
        sizes, largest = self.allowed_batch_sizes, self.max_batch_size or _ENGINES_MAX_BATCH_SIZE
        if sizes is None:
            return ""
        rises = all(size < following for size, following in pairwise(sizes))
        if not rises or sizes[-1] != largest:
            return f"allowed_batch_sizes must rise, and end with max_batch_size ({largest})"
        executed = self.max_execution_batch_size
        if self.enable_large_batch_splitting and executed not in {None, largest}:
            # The engine compares the last size with both.
            return (
                "allowed_batch_sizes must end with max_execution_batch_size as well, if "
                f"enable_large_batch_splitting is true: {executed} must be {largest}, or leave "
                "allowed_batch_sizes out"
            )
        return ""


class Batching(Value):
    """Server-side batching, for platforms that configure it by flags."""

    enabled: Annotated[bool, Field(strict=True)] = True
    parameters: BatchingParameters = BatchingParameters()


class Repository(Value):
    """An artifact that is a whole repository of models, some of which the engine loads."""

    models: Annotated[tuple[rules.EngineName, ...], Field(min_length=1, max_length=64)]
    """The models that are loaded, in this order. An ensemble loads the models that it is made of.
    """

    @field_validator("models")
    @classmethod
    def _unique(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len({name.lower() for name in models}) != len(models):
            raise ValueError("must have each name once, whatever its case")
        return models


class Serving(Value):
    """The serving settings of a model."""

    platform: platforms.Name
    image: rules.Image
    resources: Resources = Resources()
    gpu: Gpu | None = None
    batching: Batching | None = None
    update: Literal["in_place", "restart"] | None = None
    """None takes the default (`update_or_default`)."""
    engine_name: rules.EngineName | None = None
    """The name of the model in its engine, which clients call it by; None takes the id."""
    environment: Annotated[
        dict[rules.VariableName, rules.VariableValue], Field(max_length=_MAX_EXTRAS)
    ] = Field({})
    """Variables of the engine's process."""
    arguments: (
        Annotated[tuple[rules.Argument, ...], Field(min_length=1, max_length=_MAX_EXTRAS)] | None
    ) = None
    """Flags of the engine, in addition to those of the bundle; a value may follow its flag."""
    shm_size: rules.SharedMemory | None = None
    """Bytes of /dev/shm; None takes the default of the platform."""
    start_period: rules.Seconds | None = None
    """Seconds that the engine may take to load the model; None takes DEFAULT_START_PERIOD."""
    repository: Repository | None = None

    @field_validator("batching", "gpu", "repository")
    @classmethod
    def _only_if_supported(cls, value: Any, info: ValidationInfo) -> Any:
        platform = info.data.get("platform")
        if value is None or platform is None:
            return value
        engine = PLATFORMS[platform]
        reason = getattr(engine, f"no_{info.field_name}")
        if reason:
            raise ValueError(f"must be absent on {platform}: {reason}")
        if isinstance(value, Gpu) and value.memory_fraction and engine.no_memory_fraction:
            raise ValueError(
                f"must have no memory_fraction on {platform}: {engine.no_memory_fraction}"
            )
        return value

    @field_validator("arguments")
    @classmethod
    def _only_free_flags(
        cls, arguments: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        if arguments is None or "platform" not in info.data:
            return arguments
        before = ""
        for argument in arguments:
            is_value = not argument.startswith("-")
            if is_value and (not before.startswith("-") or set(before) & {"=", " "}):
                raise ValueError(f"must have a flag before each value, such as {argument!r}")
            before = argument
        refused = dict(PLATFORMS[info.data["platform"]].flags)
        if info.data.get("batching") is not None:
            refused |= dict.fromkeys(platforms.BATCHING_FLAGS, "serving.batching sets it")
        for argument in arguments:
            reason = _reason_against(argument, refused, PLATFORMS[info.data["platform"]])
            if reason:
                flag = argument.partition("=")[0]
                raise ValueError(f"must not set {flag}: {reason}")
        return arguments

    @model_validator(mode="after")
    def _one_kind_of_name(self) -> Self:
        if self.repository is not None and self.engine_name is not None:
            raise ValueError(
                "must have only one of repository and engine_name: the models of a repository have "
                "their own names"
            )
        return self

    @property
    def update_or_default(self) -> Literal["in_place", "restart"]:
        """How the service gets a new version.

        A running engine loads the models of a repository one by one. Calls between them would fail
        if the new models do not fit the old ones, so it gets a new container by default.
        """
        return self.update or ("in_place" if self.repository is None else "restart")

    @property
    def start_seconds(self) -> int:
        """How long the engine may take to load the model."""
        return self.start_period or DEFAULT_START_PERIOD

    @property
    def options_set(self) -> frozenset[str]:
        """The options of the platform's template that `arguments` sets, by the flag's name.

        Flags that only have a meaning together count as one: batching is one option.
        """
        arguments = self.arguments or ()
        names = frozenset(name for argument in arguments for name in rules.flag_names(argument))
        found = names & PLATFORMS[self.platform].options
        return found | platforms.BATCHING_FLAGS if found & platforms.BATCHING_FLAGS else found


def _reason_against(
    argument: str, refused: Mapping[str, str], engine: platforms.Platform
) -> str | None:
    """Why a composition may not set the flag of an argument; None if it may."""
    for name in rules.flag_names(argument):
        for flag, reason in refused.items():
            if name == flag or (engine.abbreviates and name and flag.startswith(name)):
                return reason
    return None


def default_serving_version(version: str, uri: str) -> int:
    """The number of the directory that the engine loads if the producer sends none (protocol 1).

    It is the version if that is a positive integer of 63 bits, else it is derived from
    sha256(version, URI).
    """
    if version.isascii() and version.isdigit() and 1 <= int(version) <= LARGEST_SERVING_VERSION:
        return int(version)
    return _derived_serving_version(version, uri)


def former_serving_version(version: str, uri: str) -> int:
    """The number that releases before 64-bit numbers gave a model by default (ADR 37)."""
    is_short = version.isascii() and version.isdigit() and len(version) <= 10
    if is_short and 1 <= int(version) <= _LARGEST_FORMER:
        return int(version)
    return _derived_serving_version(version, uri)


def _derived_serving_version(version: str, uri: str) -> int:
    digest = hashlib.sha256(canonical_json([version, uri]).encode()).digest()
    return int.from_bytes(digest[:8]) % _LARGEST_FORMER + 1


def _default_serving_version(fields: Mapping[str, Any]) -> int:
    return default_serving_version(fields["version"], fields["artifact"].uri)


class Model(Value):
    """One model of a composition."""

    id: rules.ModelId
    version: rules.ModelVersion
    name: rules.DisplayName | None = None
    artifact: Artifact
    serving: Serving
    serving_version: Annotated[
        int,
        Field(
            strict=True,
            ge=1,
            le=LARGEST_SERVING_VERSION,
            default_factory=_default_serving_version,
        ),
    ]

    @property
    def former_number(self) -> int | None:
        """The serving_version that a release before 64-bit numbers would have derived (ADR 37).

        None if it is the same, or if the producer has chosen the number.
        """
        if "serving_version" in self.model_fields_set:
            return None
        former = former_serving_version(self.version, self.artifact.uri)
        return None if former == self.serving_version else former

    @property
    def engine_name(self) -> str:
        """The name of the model in its engine. A repository has several (`repository`)."""
        return self.serving.engine_name or self.id

    @cached_property
    def names(self) -> frozenset[str]:
        """The names in lower case that no other model of the bundle may have.

        These are the id and the names in the engine. A client that reaches the engine of another
        model, as by an address that has changed, gets an error then, and no answer of that model.
        """
        repository = self.serving.repository
        own = (self.engine_name,) if repository is None else repository.models
        return frozenset({self.id, *(name.lower() for name in own)})

    @property
    def identity(self) -> str:
        """A text that changes with the files: their digest, or 16 hex digits of their origin.

        Files that change at the same URI, under the same version and without a digest, are not
        seen.
        """
        return self.artifact.digest or canonical_digest([self.version, self.artifact.uri])[:16]

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON. Cached: every change computes the composition's digest from it."""
        return canonical_json(known_fields(self))


class ModelChange(Value):
    """The change of one model in a model-version event. Absent fields keep their current values."""

    id: rules.ModelId
    version: rules.ModelVersion
    name: rules.DisplayName | None = None
    artifact: Artifact | None = None
    serving: Serving | None = None
    serving_version: Annotated[int, Field(strict=True, ge=1, le=LARGEST_SERVING_VERSION)] | None = (
        None
    )

    @property
    def missing(self) -> tuple[str, ...]:
        """The fields that are required, but absent, if the model is new to a scope."""
        return tuple(name for name in ("artifact", "serving") if getattr(self, name) is None)

    def applied_to(self, current: Model | None) -> Model:
        """The model after this change.

        Raises:
            ValueError: the model is new to the scope, and fields are missing.
        """
        artifact = self.artifact or (current.artifact if current else None)
        serving = self.serving or (current.serving if current else None)
        if artifact is None or serving is None:
            needed = " and ".join(self.missing)
            raise ValueError(f"model {self.id} is new to the scope and needs {needed}")
        number = self.serving_version
        if number is None and current is not None:
            before = (current.version, current.artifact.uri)
            if before == (self.version, artifact.uri):
                # The inputs of the default are unchanged. The producer may have chosen the current
                # number, so it is not computed again.
                number = current.serving_version
        return Model(
            id=self.id,
            version=self.version,
            name=self.name or (current.name if current else None),
            artifact=artifact,
            serving=serving,
            serving_version=number or default_serving_version(self.version, artifact.uri),
        )


class BundleSignature(Value):
    """The types of the proxy's inputs and outputs. The proxy defines the form of the document."""

    document: dict[str, JsonValue]

    @model_validator(mode="before")
    @classmethod
    def _not_by_uri(cls, value: Any) -> Any:
        if isinstance(value, dict) and "uri" in value:
            raise ValueError("uri is not supported in v1: put the signature into document")
        return value

    @cached_property
    def depth(self) -> int:
        """The levels of nesting of the document. Cached, because a document may be large."""
        return _depth(self.document)

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON of the document. Cached, because its size grows with the models."""
        return canonical_json(self.document)


class Proxy(Value):
    """The proxy of a bundle: the only service with ports on the host."""

    image: rules.Image
    signature: BundleSignature

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON."""
        image, document = canonical_json(self.image), self.signature.canonical
        return f'{{"image":{image},"signature":{{"document":{document}}}}}'


class Composition(Value):
    """The full content of a scope.

    Models are sorted by id. Ids are unique, also after `-` is replaced by `_`. No name in an engine
    is an id or a name of another model, whatever its case.
    """

    bundle: BundleName
    models: Annotated[tuple[Model, ...], Field(min_length=1, max_length=MAX_MODELS)]
    proxy: Proxy

    @field_validator("models")
    @classmethod
    def _sorted_and_unique(cls, models: tuple[Model, ...]) -> tuple[Model, ...]:
        taken: dict[str, str] = {}
        for model in models:
            name = rules.variable_name(model.id)
            if name in taken:
                raise ValueError(
                    f"must have unique ids, also with '-' read as '_': {taken[name]!r} and "
                    f"{model.id!r}"
                )
            taken[name] = model.id
        owners: dict[str, str] = {}
        for model in models:
            for name in model.names:
                if owners.setdefault(name, model.id) != model.id:
                    raise ValueError(_name_clash(name, owners[name], model.id))
        return tuple(sorted(models, key=lambda model: model.id))

    @property
    def scope(self) -> Scope:
        """The scope of this composition."""
        return self.bundle.scope

    def model(self, model_id: str) -> Model | None:
        """The model with this id, if it is part of the composition."""
        return self._by_id.get(model_id)

    @property
    def model_ids(self) -> Collection[str]:
        """The ids of its models."""
        return self._by_id.keys()

    @cached_property
    def _by_id(self) -> dict[str, Model]:
        return {model.id: model for model in self.models}

    def with_model(self, model: Model) -> "Composition":
        """This composition with `model` added, or replaced if its id exists already.

        Raises:
            ValueError: the id differs from another one only by `-` and `_`, a name is taken, or
                there are too many models.
        """
        others = [other for other in self.models if other.id != model.id]
        name = rules.variable_name(model.id)
        clash = next((other.id for other in others if rules.variable_name(other.id) == name), None)
        if clash is not None:
            raise ValueError(
                f"ids must be unique, also with '-' read as '_': {clash!r} and {model.id!r}"
            )
        other = next((other for other in others if not other.names.isdisjoint(model.names)), None)
        if other is not None:
            (name, *_) = sorted(other.names & model.names)
            raise ValueError(_name_clash(name, other.id, model.id))
        if len(others) >= MAX_MODELS:
            raise ValueError(f"a bundle has at most {MAX_MODELS} models")
        models = tuple(sorted([*others, model], key=lambda member: member.id))
        return self.model_copy(update={"models": models})

    @property
    def with_former_numbers(self) -> "Composition":
        """This composition with the numbers that a release before 64-bit numbers derived.

        It is this value itself if the numbers are the same (ADR 37).
        """
        return self._former or self

    @cached_property
    def _former(self) -> "Composition | None":
        # Not the value itself: a value that has itself among its attributes cannot be compared.
        former = self._renumbered(lambda model: model.former_number)
        return None if former is self else former

    def with_numbers_of(self, published: "Composition | None") -> "Composition":
        """This composition with former numbers where `published` has them.

        A model of the same version and URI keeps its number, as its files are where it says.
        """

        def kept(model: Model) -> int | None:
            former = model.former_number
            other = published.model(model.id) if published and former is not None else None
            is_same = other is not None and (
                (other.version, other.artifact.uri, other.serving_version)
                == (model.version, model.artifact.uri, former)
            )
            return former if is_same else None

        return self._renumbered(kept)

    def _renumbered(self, number_of: Callable[[Model], int | None]) -> "Composition":
        numbers = {model.id: number_of(model) for model in self.models}
        if not any(numbers.values()):
            return self
        models = tuple(
            model.model_copy(update={"serving_version": number})
            if (number := numbers[model.id])
            else model
            for model in self.models
        )
        return self.model_copy(update={"models": models})

    @cached_property
    def canonical(self) -> str:
        """Canonical JSON, joined from the cached texts of the models."""
        models = ",".join(model.canonical for model in self.models)
        bundle = canonical_json(known_fields(self.bundle))
        return f'{{"bundle":{bundle},"models":[{models}],"proxy":{self.proxy.canonical}}}'

    @cached_property
    def digest(self) -> str:
        """The composition digest, 64 hex digits (protocol 1)."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()


def _name_clash(name: str, one: str, other: str) -> str:
    return (
        f"must have names in engines that are unique, and no other model's id, whatever the case: "
        f"models {one!r} and {other!r} both have {name!r}"
    )


class RenderDefaults(Value):
    """Inputs of a rendering that no composition has. The manifest records them and their digest."""

    model_config = ConfigDict(extra="forbid")

    download_image: rules.Image = Field(
        "docker.io/rclone/rclone:1.71.0",
        description="Image of model_download: needs a shell and rclone.",
    )
    router_image: rules.Image = Field(
        "docker.io/library/nginx:1.28.0-alpine", description="Image of the nginx router."
    )
    registries: dict[rules.RegistryHost, rules.RegistryPrefix] = Field(
        {}, description="Mirrors: for each registry in an image name, the prefix that replaces it."
    )
    restart: rules.Restart = Field(
        "unless-stopped",
        description="Restart policy of the services, such as always or on-failure:5; "
        "model_download always runs once.",
    )
    require_all_models: Annotated[bool, Field(strict=True)] = Field(
        True,
        description="Whether no service starts before the files of every model are there; "
        "otherwise a missing model keeps only its own service from serving.",
    )
    resources: Resources = Field(
        Resources(), description="Limits and reservations of models without their own."
    )
    labels: dict[rules.LabelKey, rules.LabelValue] = Field(
        {}, description="Labels of every service."
    )

    @cached_property
    def digest(self) -> str:
        """sha256 of the canonical JSON."""
        return canonical_digest(known_fields(self))


@dataclass(frozen=True, slots=True)
class Stamp:
    """The state that a rendering belongs to, written to base/.rebundle.json.

    No digest of the content includes it.
    """

    state: str
    revision: str


def _depth(value: Any) -> int:
    """The levels of nesting; a scalar has none.

    It does not recurse: a hostile value could otherwise exhaust the stack.
    """
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        node, depth = waiting.pop()
        children = (
            node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
        )
        if children is not None:
            deepest = max(deepest, depth)
            waiting += [(child, depth + 1) for child in children]
    return deepest
