"""The bundle's README, for whoever deploys it.

The pieces of the compose file that it shows are cut from the blocks that are rendered, with the placeholders left
in, so that text and compose file cannot tell different things.
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

_SERVING: Final = ("depends_on", "image", "networks", "volumes", "command")
_LEFT_OUT: Final = "    ...\n"


def text(frame: RenderContext, folders: Iterable[str], proxy: bytes) -> str:
    """README.md; `folders` are the places that images are pulled from, `proxy` is the block of model_proxy."""
    return frame.templates.render(
        "README.md",
        bundle=frame.bundle,
        target=frame.target,
        registries=", ".join(markdown(folder) for folder in sorted(folders)),
        gcs=frame.templates.text("gcs.json"),
        excerpts=_serving_excerpts(frame.templates) | {"proxy": _proxy_excerpt(frame, proxy.decode())},
    )


def excerpt(block: str, shown: Iterable[str], marked: Iterable[str]) -> str:
    """A service's block for a diff listing: the keys in `shown`, the option lines with one of `marked` in green.

    Three dots stand for what is left out between the keys.
    """
    head, *lines = block.rstrip("\n").splitlines(keepends=True)
    wanted, result, keep = set(shown), [head], True
    for line in lines:
        key = _KEY.match(line)
        if key:
            keep = key[1] in wanted
        if keep:
            is_option = line.lstrip().startswith("#") and any(mark in line for mark in marked)
            result.append(f">{line[1:]}" if is_option else line)
        elif result[-1] != _LEFT_OUT:
            result.append(_LEFT_OUT)
    return "".join(result) if result[-1].endswith("\n") else "".join(result) + "\n"


@lru_cache(maxsize=16)
def _serving_excerpts(templates: Templates) -> dict[str, str]:
    tensorflow = compose.sample("tensorflow", templates)
    gpu = compose.sample("tensorflow", templates, gpu="all")
    return {
        "gpu": excerpt(gpu, ("depends_on", "image", "networks", "deploy"), ("#devices", "#- capabilities", "#count")),
        "batching": excerpt(tensorflow, _SERVING, ("batching",)),
        "monitoring": excerpt(tensorflow, _SERVING, ("monitoring",)),
        "parallelism": excerpt(tensorflow, _SERVING, ("_parallelism",)),
        "openvino": excerpt(compose.sample("openvino", templates), _SERVING, ("#- --",)),
        "threads": excerpt(tensorflow, _SERVING, ("grpc_max_threads",)),
    }


def _proxy_excerpt(frame: RenderContext, block: str) -> str:
    marked = ("--inference", "<inference", "--target-bundle", f"#- {frame.target}", f'#- "{frame.target}"')
    return excerpt(block, ("volumes", "command"), marked)
