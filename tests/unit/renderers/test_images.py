"""Image names: mirrors, and the folders for which a pull needs permission."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renderers import images
from renderers.composition import RenderDefaults
from renderers.gate import expectations

MIRRORS = {
    "docker.io": "mirror.example.com/hub",
    "registry.example.com:5000": "mirror.example.com",
    "localhost": "a.b:1/x",
    "registry:5000": "mirror.example.com/r",
}


@pytest.mark.parametrize(
    ("image", "pulled"),
    [
        ("nginx", "mirror.example.com/hub/library/nginx"),
        ("nginx:1.28", "mirror.example.com/hub/library/nginx:1.28"),
        ("tensorflow/serving:2", "mirror.example.com/hub/tensorflow/serving:2"),
        ("docker.io/nginx:1", "mirror.example.com/hub/library/nginx:1"),
        ("index.docker.io/nginx:1", "mirror.example.com/hub/library/nginx:1"),
        ("index.docker.io/a/b:1", "mirror.example.com/hub/a/b:1"),
        ("FOO/bar:1", "FOO/bar:1"),
        ("docker.io/library/nginx:1", "mirror.example.com/hub/library/nginx:1"),
        (
            "registry.example.com:5000/team/a@sha256:" + "0" * 64,
            "mirror.example.com/team/a@sha256:" + "0" * 64,
        ),
        ("localhost/a:1", "a.b:1/x/a:1"),
        ("registry:5000/a:1", "mirror.example.com/r/a:1"),
        ("registry.example.com/team/a:1", "registry.example.com/team/a:1"),
        ("registry-1.docker.io/library/nginx:1", "mirror.example.com/hub/library/nginx:1"),
        (
            "registry-1.docker.io:443/rclone/rclone:1.71.0",
            "mirror.example.com/hub/rclone/rclone:1.71.0",
        ),
        ("Docker.IO/rclone/rclone:1.71.0", "mirror.example.com/hub/rclone/rclone:1.71.0"),
        ("docker.io:5000/a/b:1", "docker.io:5000/a/b:1"),
        ("docker.io.example.com/a/b:1", "docker.io.example.com/a/b:1"),
        ("Registry.Example.com:5000/team/a", "mirror.example.com/team/a"),
        ("registry.example.com:443/team/a", "registry.example.com:443/team/a"),
        ("REGISTRY:5000/a:1", "mirror.example.com/r/a:1"),
        ("LOCALHOST/a:1", "a.b:1/x/a:1"),
    ],
)
def test_a_mirror_replaces_the_registry_that_docker_would_use(image, pulled):
    assert images.pulled_from(image, MIRRORS) == pulled


@pytest.mark.parametrize(
    ("key", "image"),
    [
        ("nvcr.io", "nvcr.io:443/nvidia/tritonserver:25.08-py3"),
        ("nvcr.io:443", "nvcr.io/nvidia/tritonserver:25.08-py3"),
        ("NVCR.io", "nvcr.io/nvidia/tritonserver:25.08-py3"),
        ("nvcr.io", "NVCR.IO:443/nvidia/tritonserver:25.08-py3"),
        ("Harbor", "HARBOR/nvidia/tritonserver:25.08-py3"),
        ("registry-1.docker.io", "nvidia/tritonserver:25.08-py3"),
        ("index.docker.io", "docker.io/nvidia/tritonserver:25.08-py3"),
        ("docker.io:443", "registry-1.docker.io/nvidia/tritonserver:25.08-py3"),
    ],
)
def test_a_key_names_a_server_whatever_its_case_and_port_of_https(key, image):
    defaults = RenderDefaults(registries={key: "mirror.example.com/m"})
    assert images.pulled_from(image, defaults.registries) == (
        "mirror.example.com/m/nvidia/tritonserver:25.08-py3"
    )


def test_of_keys_of_one_server_the_one_in_the_image_counts_else_the_first():
    mirrors = {"docker.io:443": "b", "Docker.io": "a", "index.docker.io": "c"}
    assert images.pulled_from("index.docker.io/x/y", mirrors) == "c/x/y"
    assert images.pulled_from("nginx", mirrors) == "a/library/nginx"


@given(
    st.sampled_from(
        ["", "docker.io/", "Docker.io:443/", "registry-1.docker.io/", "A.b:443/", "a.b/"]
    ),
    st.dictionaries(
        st.sampled_from(["docker.io", "index.docker.io", "a.b", "A.b", "a.b:443", "DOCKER.io"]),
        st.sampled_from(["m.example.com/1", "m.example.com/2"]),
    ),
    st.sampled_from(["x", "x/y", "x/y/z:1"]),
)
def test_renderer_and_gate_agree_on_mirrors(host, registries, path):
    defaults = RenderDefaults(registries=registries)
    assert expectations._pulled_from(host + path, defaults) == images.pulled_from(
        host + path, registries
    )


@pytest.mark.parametrize(
    "image", ["nginx", "a/b:1", "docker.io/library/nginx:1", "r.example.com/x"]
)
def test_without_a_mirror_an_image_is_unchanged(image):
    assert images.pulled_from(image, {}) == image


@pytest.mark.parametrize(
    ("image", "folder"),
    [
        ("nginx:1", "docker.io/library"),
        ("a/b:1", "a"),
        ("r.example.com/x/y@sha256:" + "0" * 64, "r.example.com/x"),
    ],
)
def test_a_pull_needs_permission_for_the_folder_of_the_image(image, folder):
    assert images.folder(image) == folder
