"""Random compositions for hypothesis: every platform, gpu and batching, and texts that are special
in YAML, nginx or sh.
"""

from typing import Any

from hypothesis import strategies as st

from renderers.composition import Composition, Model, RenderDefaults
from renderers.identifiers import variable_name
from renderers.platforms import PLATFORMS

_AWKWARD_IDS = (
    "default",
    "include",
    "hostnames",
    "volatile",
    "null",
    "true",
    "on",
    "y",
    "1e3",
    "0x1f",
    "0",
    "1_000",
    "2026-01-01",
    "a-b_c",
    "a" * 61,
)
_AWKWARD_IMAGES = (
    "on",
    "null:1",
    "12:30",
    "1.0",
    "1e3",
    "0x1f",
    "2026-01-01",
    "localhost:5000/a/b:1",
    f"a/b@sha256:{'0' * 64}",
    "1.2.3.4/a",
)

slugs = st.one_of(
    st.sampled_from(_AWKWARD_IDS),
    st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,12}[a-z0-9])?", fullmatch=True),
)
"""Ids, and short enough names of bundles and targets."""

versions = st.one_of(
    st.sampled_from(("1", "7", "v1.2", "2026-01-01", "0", "1e3", "20261129101500")),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,8}", fullmatch=True),
)
images = st.one_of(
    st.sampled_from(_AWKWARD_IMAGES),
    st.from_regex(
        r"(registry\.example\.com/)?[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,8})?",
        fullmatch=True,
    ),
)
_keys = r"[A-Za-z0-9_=+@,~:()-]([A-Za-z0-9_=+@,~:() -]{0,6}[A-Za-z0-9_=+@,~:()-])?"
uris = st.one_of(
    st.from_regex(rf"(s3|gs|az)://[a-z0-9]{{3,8}}/{_keys}(/{_keys}){{0,2}}", fullmatch=True),
    st.from_regex(rf"file:///{_keys}(/{_keys}){{0,2}}", fullmatch=True),
    st.sampled_from(
        [
            "s3://bucket/a b/c  d (1)/e: f",
            "gs://bucket/,provider=x/:local:/etc",
            "az://con-tainer/a/b c",
            "https://models.example.com/a/model.tar.gz",
            "https://models.example.com:8443/model,v=1.tar",
            "https://10.0.0.1/a/model.tgz",
        ]
    ),
)
plain_texts = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")),
    min_size=1,
    max_size=20,
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4)
    ),
    max_leaves=12,
)
json_documents = st.dictionaries(st.text(max_size=8), json_values, max_size=4).filter(
    lambda document: "uri" not in document
)

_amounts = st.fixed_dictionaries(
    {},
    optional={
        "cpus": st.sampled_from([0, 1, 0.5, "2.250", 64]),
        "memory": st.one_of(
            st.sampled_from(["0", "512m", "4g", "1.5g", 0, 1000]).filter(lambda v: v != "0"),
            st.integers(0, 1 << 40),
        ),
    },
)
_resources = st.fixed_dictionaries({}, optional={"limits": _amounts, "reservations": _amounts})
_gpus_by_docker = st.one_of(
    st.just({"count": "all"}),
    st.integers(1, 1024).map(lambda count: {"count": count}),
    st.lists(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,8}", fullmatch=True), min_size=1, max_size=3
    ).map(lambda ids: {"device_ids": ids}),
)
_gpus_by_cdi = st.lists(
    st.from_regex(
        r"[a-z0-9.]{1,6}/[a-z]{1,4}=[A-Za-z0-9][A-Za-z0-9:._-]{0,4}", fullmatch=True
    ).filter(lambda name: name[0] != "."),
    min_size=1,
    max_size=3,
).map(lambda ids: {"device_ids": ids, "driver": "cdi"})
_gpus = st.one_of(
    _gpus_by_docker,
    _gpus_by_docker.map(lambda gpu: gpu | {"driver": "nvidia"}),
    _gpus_by_cdi,
)
_fractions = st.sampled_from([1, 0.4, 0.125, "0.50"])
_positive = st.integers(1, 2**31 - 1)


def _with_sizes(parameters: dict[str, Any], smaller: list[int] | None) -> dict[str, Any]:
    """Rising sizes up to the largest batch, which is 1000 by default."""
    largest = parameters.get("max_batch_size", 1000)
    if parameters.get("enable_large_batch_splitting"):
        executed = largest
        if smaller is None:
            executed = min(parameters.get("max_execution_batch_size", largest), largest)
        parameters = parameters | {"max_execution_batch_size": executed}
    if smaller is None:
        return parameters
    return parameters | {
        "allowed_batch_sizes": [*sorted({size for size in smaller if size < largest}), largest]
    }


_batching = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.booleans(),
        "parameters": st.builds(
            _with_sizes,
            st.fixed_dictionaries(
                {},
                optional={
                    "max_batch_size": _positive,
                    "batch_timeout_micros": st.integers(0, 2**31 - 1),
                    "max_enqueued_batches": _positive,
                    "num_batch_threads": _positive,
                    "pad_variable_length_inputs": st.booleans(),
                    "thread_pool_name": st.from_regex(
                        r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True
                    ),
                    "enable_large_batch_splitting": st.booleans(),
                    "max_execution_batch_size": _positive,
                },
            ),
            st.none() | st.lists(st.integers(1, 5000), max_size=3),
        ),
    },
)


@st.composite
def _artifacts(draw: st.DrawFn) -> dict[str, Any]:
    uri = draw(uris)
    digest = {"digest": f"sha256:{'a' * 64}"}
    artifact = {"uri": uri} | (digest if uri.startswith("https:") or draw(st.booleans()) else {})
    if uri.startswith(("s3:", "gs:", "az:")) and draw(st.booleans()):
        artifact["store"] = draw(slugs)
    return artifact


_awkward_texts = st.sampled_from(
    ["", "$x", "${A:-b}", "<image>", "<env_value:1>", "a: b", " #", "on", "'\"\\", "12:30", "- a"]
)
_environments = st.dictionaries(
    st.one_of(
        st.sampled_from(["on", "null", "Y", "_", "A" * 100, "x1e3"]),
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
    ).filter(lambda name: not name.startswith("LD_") and name != "PATH"),
    st.one_of(_awkward_texts, plain_texts),
    max_size=3,
)


@st.composite
def _arguments(draw: st.DrawFn, platform: str) -> list[str]:
    """Flags with and without values, among them options of the platform's template."""
    known = st.sampled_from(sorted(PLATFORMS[platform].options) or ["x-known"])  # type: ignore[index]
    arguments: list[str] = []
    for name in draw(st.lists(known | st.from_regex(r"x[a-z_-]{0,5}", fullmatch=True), max_size=3)):
        value = draw(st.none() | _awkward_texts | plain_texts)
        if value is None:
            arguments.append(f"--{name}")
        elif draw(st.booleans()) and value and not value.startswith("-"):
            arguments += [f"--{name}", value]
        else:
            arguments.append(f"-{name}={value}")
    return arguments or ["--x"]


@st.composite
def _names_and_more(draw: st.DrawFn, platform: str, model_id: str) -> dict[str, Any]:
    """Fields of `serving` that every platform has, with names that no other model has."""
    # No id has a dot.
    name = st.from_regex(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,6}}\.{model_id}", fullmatch=True)
    fields: dict[str, st.SearchStrategy[Any]] = {
        "engine_name": name,
        "environment": _environments,
        "arguments": _arguments(platform),
        "shm_size": st.sampled_from(["64m", "1000b", 1 << 40, "1.5g"]),
        "start_period": st.sampled_from(["90s", "10m", "1h", 1, 86400]),
        "update": st.sampled_from(["in_place", "restart"]),
    }
    if platform == "triton":
        names = st.lists(name, min_size=1, max_size=3, unique_by=str.lower)
        fields["repository"] = names.map(lambda models: {"models": models})
    chosen = draw(st.fixed_dictionaries({}, optional=fields))
    if "repository" in chosen:
        chosen.pop("engine_name", None)
    if "batching" in "".join(chosen.get("arguments", [])):
        chosen["batching"] = None
    return chosen


@st.composite
def model_documents(draw: st.DrawFn, model_id: str | None = None) -> dict[str, Any]:
    """A model as in an event."""
    platform = draw(st.sampled_from(list(PLATFORMS)))
    serving: dict[str, Any] = {"platform": platform, "image": draw(images)}
    able = PLATFORMS[platform]
    optional = {"resources": _resources} | ({} if able.no_gpu else {"gpu": _gpus})
    optional |= {} if able.no_batching else {"batching": _batching}
    serving |= draw(st.fixed_dictionaries({}, optional=optional))
    model_id = model_id or draw(slugs)
    serving |= draw(_names_and_more(platform, model_id))
    if platform == "tensorflow" and "gpu" in serving and draw(st.booleans()):
        serving["gpu"] = serving["gpu"] | {"memory_fraction": draw(_fractions)}
    fields = {"name": plain_texts, "serving_version": st.integers(1, 2**63 - 1)}
    return {
        "id": model_id,
        "version": draw(versions),
        "artifact": draw(_artifacts()),
        "serving": serving,
    } | draw(st.fixed_dictionaries({}, optional=fields))


def models(model_id: str | None = None) -> st.SearchStrategy[Model]:
    """Models, of any id or of this one."""
    return model_documents(model_id).map(Model.model_validate)


@st.composite
def compositions(draw: st.DrawFn, max_models: int = 4) -> Composition:
    """Compositions of 1 to `max_models` models."""
    ids = draw(st.lists(slugs, min_size=1, max_size=max_models, unique_by=variable_name))
    return Composition.model_validate(
        {
            "bundle": {
                "name": draw(slugs.filter(lambda name: len(name) <= 57)),
                "target": draw(slugs),
            },
            "models": [draw(model_documents(model_id)) for model_id in ids],
            "proxy": {"image": draw(images), "signature": {"document": draw(json_documents)}},
        }
    )


@st.composite
def render_defaults(draw: st.DrawFn) -> RenderDefaults:
    """Render defaults with labels and resources."""
    keys = st.sampled_from(
        [
            *("team", "on", "null", "1e3", "a.b", "cost-centre", "y", "NULL", "Yes", "1E3"),
            *("prometheus.io/scrape", "traefik.http.services.modelProxy.port"),
        ]
    )
    return RenderDefaults.model_validate(
        {
            "download_image": draw(images),
            "router_image": draw(images),
            "resources": draw(_resources),
            "require_all_models": draw(st.booleans()),
            "restart": draw(
                st.sampled_from(["no", "always", "on-failure", "unless-stopped", "on-failure:5"])
            ),
            "registries": draw(
                st.dictionaries(
                    st.sampled_from(["docker.io", "registry.example.com", "localhost:5000"]),
                    st.sampled_from(["mirror.example.com:5000", "mirror.example.com/a/b"]),
                )
            ),
            "labels": draw(
                st.dictionaries(
                    keys,
                    st.one_of(
                        st.sampled_from(["$x", "${A:-b}", "<image>", "a: b", "#", "on", ""]),
                        plain_texts,
                    ),
                    max_size=3,
                )
            ),
        }
    )
