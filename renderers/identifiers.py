"""Rules for ids, versions, names, images and URIs.

Text from a registry may be hostile: a name may be ``$(id)``, a tag may contain a newline. Each kind
of text that can reach a rendered file has exactly one rule here, an allow-list that must match the
whole text. The filters of the output formats (YAML, nginx, shell, env, Markdown) are a second layer
of checks, and the gate is a third.
"""

import re
import unicodedata
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, StringConstraints, WithJsonSchema

_SLUG: Final = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_DEVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,63}")
_CDI_DEVICE: Final = re.compile(
    r"[a-z0-9][a-z0-9.-]{0,62}/[A-Za-z0-9][A-Za-z0-9_.-]{0,62}=[A-Za-z0-9][A-Za-z0-9:._-]{0,63}"
)
"""A device's name in the Container Device Interface: vendor/class=name."""
_THREAD_POOL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ENGINE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_FLAG: Final = re.compile(r"--?[A-Za-z0-9][A-Za-z0-9_.-]*(?:=.*)?")
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([smh])")
_MAX_SECONDS: Final = 24 * 60 * 60
_MEMORY: Final = re.compile(
    r"([0-9]{1,15}(?:\.[0-9]{1,3})?)(b|k|kb|kib|m|mb|mib|g|gb|gib)", re.IGNORECASE
)
_LABEL_KEY: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,253}[A-Za-z0-9])?")
_RESERVED_LABELS: Final = ("com.docker.", "bundle.")
_RESTART = r"no|always|unless-stopped|on-failure(?::[1-9][0-9]{0,3})?"

# The grammar of the distribution project's reference package, in its lower-case path form.
_HOST_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_HOST_LABEL})(?:\.{_HOST_LABEL})*(?::[0-9]{{1,5}})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    rf"(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)

_REGISTRY: Final = re.compile(_DOMAIN)
_REGISTRY_PREFIX: Final = re.compile(rf"{_DOMAIN}(?:/{_COMPONENT})*")

# A key may hold what rclone, the last field of a shell `read` and a YAML scalar take literally:
# blanks inside (`read` cuts those at its ends), and colons and commas (rclone reads its options
# before the first colon only, which the list of downloads writes). Quotes, `$`, `\`, `*` and `%`
# are left out, so that no reader unescapes or expands anything.
_KEY = r"[A-Za-z0-9._=+@,~/:() -]{1,1024}"
# The bucket rule is the stricter one of S3 and GCS.
_IN_A_BUCKET: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{1,61}}[a-z0-9]/({_KEY})")
_URI_RULES: Final = {
    "s3": _IN_A_BUCKET,
    "gs": _IN_A_BUCKET,
    "az": re.compile(rf"(?=[^/]{{3,63}}/)[a-z0-9]+(?:-[a-z0-9]+)*/({_KEY})"),
    "https": re.compile(rf"{_DOMAIN}/([A-Za-z0-9._=+@,~/-]{{1,1024}}\.(?:tar|tar\.gz|tgz))"),
    "file": re.compile(rf"/({_KEY})"),
}
"""What follows `://`, by scheme; the group is the key."""
_URI_FORMS: Final = (
    "must be s3://bucket/key, gs://bucket/key, az://container/key, file:///path, or "
    "https://host/path of a .tar, .tar.gz or .tgz archive, without user, query or fragment; "
    "a bucket has 3 to 63 lower-case letters, digits and . _ - (a container no . and _), "
    "a key holds letters, digits, blanks and . _ = + @ , ~ / : ( ) - (no blanks, : ( ) with https)"
)
STORES_WITH_CREDENTIALS: Final = frozenset({"s3", "gs", "az"})
"""Schemes whose rclone remotes read credentials from variables."""

MODEL_ID_LENGTH: Final = 61  # s<id>s is a DNS label
BUNDLE_LENGTH: Final = 57  # <bundle>-nginx is a DNS label
TARGET_LENGTH: Final = 63
STORE_LENGTH: Final = 63

_SECONDS: Final = {"s": 1, "m": 60, "h": 60 * 60}
_RESERVED_VARIABLES: Final = {
    "NVIDIA_VISIBLE_DEVICES": "serving.gpu gives a model its GPUs",
    "CUDA_VISIBLE_DEVICES": "serving.gpu gives a model its GPUs",
    "MODEL_NAME": "serving.engine_name is the name of a model in its engine",
    "MODEL_BASE_PATH": "the bundle mounts the model and names its folder",
    "PATH": "the program that runs belongs in the image",
}
"""Variables that the bundle, or the entrypoint of an engine's image, uses, with what to do."""
_MEMORY_UNITS: Final = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _slug(max_length: int) -> AfterValidator:
    def check(text: str) -> str:
        if len(text) > max_length or not _SLUG.fullmatch(text):
            raise ValueError(
                "must be lower-case letters, digits, '-' and '_', "
                "start and end with a letter or digit, "
                f"and have at most {max_length} characters"
            )
        return text

    return AfterValidator(check)


def _matching(pattern: re.Pattern[str], rule: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(rule)
        return text

    return AfterValidator(check)


def _device(text: str) -> str:
    if text.startswith("MIG-GPU-") and "/" in text:
        raise ValueError(
            "must name a MIG device by its UUID, MIG-<uuid>, as `nvidia-smi -L` shows it: the form "
            "MIG-GPU-<uuid>/<instance>/<instance> changes whenever the GPU is partitioned, and "
            "newer drivers do not know it"
        )
    if not _DEVICE.fullmatch(text) and not is_cdi_device(text):
        raise ValueError(
            "must be a device index or UUID: letters, digits and : . _ - (64 at most); or, with "
            "the driver cdi, a name such as nvidia.com/gpu=0"
        )
    return text


def is_cdi_device(text: str) -> bool:
    """Whether it names a device as the Container Device Interface does: `nvidia.com/gpu=0`."""
    return _CDI_DEVICE.fullmatch(text) is not None


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise ValueError(
            "must be a variable's name: letters, digits and _, no digit at its start (100 at most)"
        )
    reason = _RESERVED_VARIABLES.get(text)
    if text.startswith("LD_"):
        reason = "the libraries that are loaded belong in the image"
    if reason:
        raise ValueError(f"must not set {text}: {reason}")
    return text


def _argument(text: str) -> str:
    if text.startswith("-") and not _FLAG.fullmatch(text):
        raise ValueError(
            "must be a flag such as --name=value or --name, or the value of a flag in an entry of "
            "its own"
        )
    return text


def flag_names(argument: str) -> frozenset[str]:
    """The names of the flag that an argument may set; none if it is the value of a flag.

    Engines read -name and --name alike, many read - and _ in a name alike, and --noname as "off".
    """
    if not argument.startswith("-"):
        return frozenset()
    name = re.split("[= ]", argument, maxsplit=1)[0].lstrip("-").replace("-", "_").lower()
    return frozenset({name, name.removeprefix("no").lstrip("_")})


def _seconds(value: Any) -> int:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        seconds = int(match[1]) * _SECONDS[match[2]]
    elif isinstance(value, int) and not isinstance(value, bool):
        seconds = value
    else:
        raise ValueError("must be a time such as 90s, 10m or 1h, or a number of seconds")
    if not 1 <= seconds <= _MAX_SECONDS:
        raise ValueError("must be from 1 second to 24 hours")
    return seconds


def _decimal(value: Any, rule: str) -> Decimal:
    """The number that `value` is, or writes. Raises ValueError with the rule."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(rule)
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise ValueError(rule) from None


def _fraction(value: Any) -> str:
    number = _decimal(value, "must be a number above 0 and at most 1, such as 0.4")
    if not number.is_finite() or not 0 < number <= 1 or number != round(number, 3):
        raise ValueError("must be above 0 and at most 1, with at most 3 decimals")
    return format(number.normalize(), "f")


def _image(text: str) -> str:
    if len(text) > 512 or not _IMAGE.fullmatch(text):
        raise ValueError(
            "must be an image reference such as registry.example.com/team/image:1.0 (512 "
            "characters at most)"
        )
    return text


def _registry_host(text: str) -> str:
    if (
        len(text) > 255
        or not _REGISTRY.fullmatch(text)
        or not ("." in text or ":" in text or text == "localhost" or text != text.lower())
    ):
        raise ValueError(
            "must be a registry's host as images name it, such as docker.io or "
            "registry.example.com:5000"
        )
    return text


def _registry_prefix(text: str) -> str:
    if len(text) > 255 or not _REGISTRY_PREFIX.fullmatch(text):
        raise ValueError("must be a host and perhaps a path, such as mirror.example.com/docker")
    _registry_host(text.partition("/")[0])
    return text


def _uri(text: str) -> str:
    scheme, _, rest = text.partition("://")
    rule = _URI_RULES.get(scheme)
    match = rule.fullmatch(rest) if rule else None
    if match is None:
        raise ValueError(_URI_FORMS)
    segments = match[1].rstrip("/").split("/")
    if any(segment in {"", ".", ".."} for segment in segments):
        raise ValueError("must have no empty, '.' or '..' part in its key")
    if any(segment != segment.strip(" ") for segment in segments):
        raise ValueError("must have no blank at an end of a part of its key")
    if scheme == "az" and any(segment.endswith(".") for segment in segments):
        raise ValueError("must have no part in its key that ends with '.': Azure drops it")
    return text.rstrip("/")


def _plain_text(text: str) -> str:
    for character in text:
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
            raise ValueError(
                "must have no control, direction or unassigned character (found "
                f"U+{ord(character):04X})"
            )
    return text


def _cpus(value: Any) -> str:
    number = _decimal(value, "must be a number of CPUs, such as 2 or 0.5")
    if not number.is_finite() or not 0 <= number <= 10_000 or number != round(number, 3):
        raise ValueError("must be from 0 to 10000 with at most 3 decimals")
    return format(number.normalize(), "f") if number else "0"


def _memory(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        amount = value
    else:
        match = _MEMORY.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(
                "must be an amount with the unit b, k, m or g, such as 512m or 4g, or a number "
                "of bytes"
            )
        amount = int(Decimal(match[1]) * _MEMORY_UNITS[match[2][0].lower()])
    if not 0 <= amount <= 1 << 50:
        raise ValueError("must be from 0 to 1 PiB")
    return amount


def _shared_memory(value: Any) -> int:
    amount = _memory(value)
    if amount == 0:
        raise ValueError("must be more than 0; leave it out for the default")
    return amount


def _label_key(text: str) -> str:
    # Docker takes any text. Without `$`, Compose has nothing to interpolate; without quotes, `\`
    # and `=`, every form of labels means the same.
    if not _LABEL_KEY.fullmatch(text) or text.lower().startswith(_RESERVED_LABELS):
        raise ValueError(
            "must be letters, digits and . _ / - (255 at most), start and end with a letter or "
            "digit, and not start with com.docker. or bundle."
        )
    return text


_Text = Annotated[str, StringConstraints(strict=True)]

ModelId = Annotated[_Text, _slug(MODEL_ID_LENGTH)]
BundleName = Annotated[_Text, _slug(BUNDLE_LENGTH)]
TargetName = Annotated[_Text, _slug(TARGET_LENGTH)]
ModelVersion = Annotated[
    _Text,
    _matching(
        _VERSION,
        "must start with a letter or digit and hold only letters, digits and . _ + - (128 at most)",
    ),
]
DisplayName = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=500), AfterValidator(_plain_text)
]
LabelKey = Annotated[_Text, AfterValidator(_label_key)]
Restart = Annotated[
    _Text,
    _matching(
        re.compile(_RESTART),
        "must be 'no', 'always', 'unless-stopped', 'on-failure', or 'on-failure:' and the number "
        "of restarts (1 to 9999)",
    ),
    WithJsonSchema({"type": "string", "pattern": f"^(?:{_RESTART})$"}),
]
LabelValue = Annotated[
    str, StringConstraints(strict=True, max_length=500), AfterValidator(_plain_text)
]
Digest = Annotated[_Text, _matching(_DIGEST, "must be sha256: and 64 lower-case hex digits")]
DeviceId = Annotated[_Text, AfterValidator(_device)]
ThreadPoolName = Annotated[
    _Text,
    _matching(
        _THREAD_POOL_NAME,
        "must start with a letter or digit and hold only letters, digits and . _ - (64 at most)",
    ),
]
Image = Annotated[_Text, AfterValidator(_image)]
RegistryHost = Annotated[_Text, AfterValidator(_registry_host)]
RegistryPrefix = Annotated[_Text, AfterValidator(_registry_prefix)]
ArtifactUri = Annotated[_Text, AfterValidator(_uri)]
StoreName = Annotated[_Text, _slug(STORE_LENGTH)]
Cpus = Annotated[str, BeforeValidator(_cpus)]
"""Normalised decimal text; "0" means no limit."""
Memory = Annotated[int, BeforeValidator(_memory)]
"""Bytes; 0 means no limit."""
SharedMemory = Annotated[int, BeforeValidator(_shared_memory)]
"""Bytes, more than 0."""
Seconds = Annotated[int, BeforeValidator(_seconds)]
"""1 second to 24 hours, from seconds or a text such as 10m."""
Fraction = Annotated[str, BeforeValidator(_fraction)]
"""Normalised decimal text, above 0 and at most 1."""
EngineName = Annotated[
    _Text,
    _matching(
        _ENGINE_NAME,
        "must start with a letter or digit and hold only letters, digits and . _ - (128 at most)",
    ),
]
VariableName = Annotated[_Text, AfterValidator(_variable)]
VariableValue = Annotated[
    str, StringConstraints(strict=True, max_length=4096), AfterValidator(_plain_text)
]
Argument = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=1024),
    AfterValidator(_plain_text),
    AfterValidator(_argument),
]


def variable_name(model_id: str) -> str:
    """A model's id in SERVING_<id>_… variables, where Compose allows no `-`."""
    return model_id.replace("-", "_")
