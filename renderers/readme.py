"""Renders the bundle's README, for the operators who deploy it.

Its listings are cut from the rendered blocks of the compose file, with the placeholders unfilled,
so the README and the compose file cannot differ.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from renderers import compose
from renderers.compose import RenderContext
from renderers.template_set import Templates, markdown

PATH: Final = "README.md"
_KEY: Final = re.compile(r"    ([a-z_]+):")
_OPTION: Final = re.compile(r" *#[^ \n]")
"""A remark has a blank behind its sign."""

_SERVING: Final = ("depends_on", "image", "networks", "volumes", "command")
_LEFT_OUT: Final = "    ...\n"


def text(context: RenderContext, folders: Iterable[str], proxy: bytes) -> str:
    """README.md. Images are pulled from `folders`; `proxy` is the block of model_proxy."""
    return context.templates.render(
        "README.md",
        bundle=context.bundle,
        target=context.target,
        registries=", ".join(markdown(folder) for folder in sorted(folders)),
        gcs=context.templates.text("gcs.json"),
        excerpts=_serving_excerpts(context.templates)
        | {"proxy": _proxy_excerpt(context, proxy.decode())},
    )


def excerpt(block: str, shown: Iterable[str], marked: Iterable[str]) -> str:
    """A service's block as a diff listing: the keys in `shown`, and `...` for the keys between.

    Option lines that contain one of `marked` are highlighted.
    """
    head, *lines = block.rstrip("\n").splitlines(keepends=True)
    wanted, result, keep = set(shown), [head], True
    for line in lines:
        key = _KEY.match(line)
        if key:
            keep = key[1] in wanted
        if keep:
            is_shown = _OPTION.match(line) and any(mark in line for mark in marked)
            result.append(f">{line[1:]}" if is_shown else line)
        elif result[-1] != _LEFT_OUT:
            result.append(_LEFT_OUT)
    return "".join(result) if result[-1].endswith("\n") else "".join(result) + "\n"


@lru_cache(maxsize=16)
def _serving_excerpts(templates: Templates) -> dict[str, str]:
    tensorflow = compose.sample("tensorflow", templates)
    gpu = compose.sample("tensorflow", templates, gpu="all")
    return {
        "gpu": excerpt(
            gpu,
            ("depends_on", "image", "networks", "deploy"),
            ("#devices", "#- capabilities", "#count"),
        ),
        "batching": excerpt(tensorflow, _SERVING, ("batching",)),
        "monitoring": excerpt(tensorflow, _SERVING, ("monitoring",)),
        "parallelism": excerpt(tensorflow, _SERVING, ("_parallelism",)),
        "openvino": excerpt(compose.sample("openvino", templates), _SERVING, ("#- --",)),
        "threads": excerpt(tensorflow, _SERVING, ("grpc_max_threads",)),
    }


def _proxy_excerpt(context: RenderContext, block: str) -> str:
    marked = (
        "--inference",
        "<inference",
        "--target-bundle",
        f"#- {context.target}",
        f'#- "{context.target}"',
    )
    return excerpt(block, ("volumes", "command"), marked)
