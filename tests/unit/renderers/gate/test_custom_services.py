"""What a custom template of a service may set, and what contradicts the composition."""

import pytest

from renderers import gate, self_test
from renderers.bundle import Customisation, Renderer
from renderers.composition import RenderDefaults
from renderers.errors import GateFailure
from renderers.gate.custom_services import comparable, decided, free_keys_set_by
from renderers.gate.diff import difference
from renderers.template_set import Templates
from tests.builders import STAMP, make_composition, make_model

BUNDLE = make_composition(8)
DEFAULTS = RenderDefaults(labels={"team": "vision"})
BUILT_IN = Templates.built_in()

MOUNT = "      - ../model-serving/model-download/models/<model_id>:/models:ro\n"
ALL_GPUS = """\
{% if gpu == "all" %}
          devices:
            - driver: nvidia
              capabilities: [gpu, utility]
              count: all
"""
COMMENTED_GPUS = """\
{% if gpu == "all" and not driver %}
          #devices:
            #- capabilities: [gpu]
              #count: 1
"""
RUNTIME = '{% if gpu == "all" and not driver %}\n    runtime: nvidia\n{% endif %}\n'
STATUS_TEST = (
    BUILT_IN.text("tensorflow.yaml").partition("      test:\n")[2].partition("      int")[0]
)
READY_TEST = '["CMD", "curl", "-fsS", "-o", "/dev/null", "http://127.0.0.1:8000/v2/health/ready"]'
LABELS = """\
      bundle.model: "<model_id>"
{% if update == "restart" %}
      bundle.model-version: "<model_digest>"
{% endif %}
{% include "labels.yaml" %}
"""
LABELS_AS_LIST = "      - bundle.model=<model_id>\n      - team=vision\n"
COUNT = "              count: {{ gpu }}\n"


def check(*changes):
    """Renders with these changes (template, old, new) of the built-in templates, and checks."""
    texts = {}
    for name, old, new in changes:
        text = texts.get(name, BUILT_IN.text(name))
        assert old in text
        texts[name] = text.replace(old, new, 1)
    templates = BUILT_IN.overridden_by(texts)
    gate.check(
        BUNDLE,
        DEFAULTS,
        Renderer().render(BUNDLE, DEFAULTS, STAMP, templates),
        templates.overridden,
    )


def key(text, before="    networks:\n", name="triton.yaml"):
    """A change that adds a key to a service."""
    return (name, before, f"    {text}\n{before}")


FREE = {
    "more shared memory": [("triton.yaml", "shm_size: 1g", "shm_size: 8g")],
    "no shared memory": [("triton.yaml", "    shm_size: 1g\n", "")],
    "limits of a process": [key("ulimits: {memlock: -1, stack: 67108864}")],
    "a file system in memory": [key("tmpfs: [/tmp, '/run:size=64m']")],
    "a user, a host name and capabilities": [key("user: '1000'"), key("cap_drop: [ALL]")],
    "an environment as a mapping": [key("environment: {LD_PRELOAD: /usr/lib/libjemalloc.so}")],
    "an environment as a list": [key("environment: [OMP_NUM_THREADS=4]")],
    "a slow start": [("triton.yaml", "start_period: 120s", "start_period: 15m")],
    "another pace of the health check": [
        ("triton.yaml", "interval: 5s", "interval: 30s"),
        ("triton.yaml", "timeout: 5s", "timeout: 20s"),
        ("triton.yaml", "retries: 3", "retries: 10\n      start_interval: 1s"),
    ],
    "no times of the health check": [
        ("router.yaml", "      interval: 5s\n      timeout: 5s\n      retries: 3\n", "")
    ],
    "a probe with another tool": [
        ("triton.yaml", READY_TEST, '"wget -qO- http://localhost:8000/v2/health/live || exit 1"'),
        ("tensorflow.yaml", STATUS_TEST, "        - CMD\n        - /probe\n        - '8501'\n"),
    ],
    "retries of a restart": [
        ("tensorflow.yaml", "restart: <restart>", "restart: on-failure:5"),
        ("model_download.yaml", 'restart: "no"', "restart: on-failure:3"),
    ],
    "no restart policy": [("model_download.yaml", '    restart: "no"\n', "")],
    "another runtime": [("triton.yaml", "runtime: nvidia", "runtime: crun")],
    "no runtime": [("triton.yaml", RUNTIME, "")],
    "all GPUs by a device request": [
        ("triton.yaml", RUNTIME, ""),
        ("tensorflow.yaml", RUNTIME, ""),
        ("resources.yaml", COMMENTED_GPUS, ALL_GPUS),
    ],
    "all GPUs by a device request and a runtime": [("resources.yaml", COMMENTED_GPUS, ALL_GPUS)],
    "all GPUs by the short key": [
        ("triton.yaml", RUNTIME, '{% if gpu == "all" %}\n    gpus: all\n{% endif %}\n')
    ],
    "all GPUs by CDI": [
        (
            "triton.yaml",
            RUNTIME,
            '{% if gpu == "all" %}\n    devices:\n      - nvidia.com/gpu=all\n{% endif %}\n',
        )
    ],
    "a driver and capabilities of the GPUs": [
        (
            "resources.yaml",
            f"            - capabilities: [gpu]\n{COUNT}",
            f"            - driver: nvidia\n              capabilities: [gpu, video]\n{COUNT}",
        )
    ],
    "another device of the host": [key("devices: [/dev/fuse, vendor.com/net=0]")],
    "a reservation of another device": [
        (
            "resources.yaml",
            COUNT,
            f"{COUNT}            - capabilities: [tpu]\n              count: 1\n",
        )
    ],
    "options of a mount": [("triton.yaml", MOUNT, MOUNT.replace(":ro", ":ro,z"))],
    "other options of a mount": [
        ("router.yaml", "/etc/nginx/deployment:ro", "/etc/nginx/deployment:ro,Z"),
        ("model_download.yaml", "/models:/models", "/models:/models:z"),
    ],
    "a mount in the long form": [
        (
            "triton.yaml",
            MOUNT,
            (
                "      - type: bind\n"
                "        source: ../model-serving/model-download/models/<model_id>\n"
                "        target: /models\n        read_only: true\n"
                "        bind: {selinux: z}\n"
            ),
        )
    ],
    "another volume": [("triton.yaml", MOUNT, f"{MOUNT}      - ./x:/etc/x:ro\n      - /cache\n")],
    "label keys with capitals and slashes": [
        (
            "labels.yaml",
            "{% for",
            (
                "      Team.Name: x\n      prometheus.io/scrape: 'true'\n"
                "      traefik.http.routers.Api.rule: Host(`x`)\n{% for"
            ),
        )
    ],
    "labels as a list": [("triton.yaml", LABELS, LABELS_AS_LIST + "      - A/b=c\n")],
    "another network": [
        ("triton.yaml", "      - <network>\n", "      - <network>\n      - monitoring\n")
    ],
    "an alias in the network": [
        ("triton.yaml", "      - <network>\n", "      <network>: {aliases: [engine]}\n")
    ],
    "another flag": [
        ("triton.yaml", "      - tritonserver\n", "      - tritonserver\n      - -x\n")
    ],
    "a flag whose name begins like another": [
        ("triton.yaml", "      - tritonserver\n", "      - tritonserver\n      - --model=1\n")
    ],
    "a limit of processes": [
        ("resources.yaml", "        reservations:", "          pids: 100\n        reservations:")
    ],
    "a limit of a service without limits": [key("mem_limit: 64m", name="router.yaml")],
    "a dependency that restarts": [
        (
            "proxy.yaml",
            "        condition: service_started\n",
            "        condition: service_started\n        restart: true\n        required: true\n",
        )
    ],
    "no setting of the kernel": [
        ("router.yaml", '    sysctls:\n      net.ipv4.tcp_tw_reuse: "1"\n', "")
    ],
    "credentials in the long form": [
        (
            "model_download.yaml",
            "      - ${REL_DIR}/creds/bundle/.env\n",
            "      - path: ${REL_DIR}/creds/bundle/.env\n      - ${REL_DIR}/more.env\n",
        )
    ],
    "variables of model_download as a list": [
        (
            "model_download.yaml",
            "      RCLONE_CONFIG: /dev/null\n      RCLONE_GCS_SERVICE_ACCOUNT_FILE: /creds/gcs.json\n",
            (
                "      - RCLONE_GCS_SERVICE_ACCOUNT_FILE=/creds/gcs.json\n"
                "      - RCLONE_CONFIG=/dev/null\n      - RCLONE_BWLIMIT=1M\n"
            ),
        )
    ],
}


@pytest.mark.parametrize("changes", FREE.values(), ids=FREE)
def test_what_does_not_follow_from_the_composition_is_free(changes):
    check(*changes)


MODEL_FLAG = "      - --load-model=<engine_name>\n"
CONTRADICTIONS = {
    "another image": (("triton.yaml", "image: <image>", "image: other:1"), ".image = "),
    "no dependency": (
        (
            "triton.yaml",
            (
                "    depends_on:\n      model_download:\n"
                "        condition: service_completed_successfully\n"
            ),
            "",
        ),
        ".depends_on = ",
    ),
    "a dependency in another state": (
        ("triton.yaml", "service_completed_successfully", "service_started"),
        ".depends_on.model_download.condition = ",
    ),
    "an optional dependency": (
        (
            "triton.yaml",
            "        condition: service_completed_successfully\n",
            "        condition: service_completed_successfully\n        required: false\n",
        ),
        ".depends_on.model_download.required = nothing",
    ),
    "a flag with another value": (
        ("triton.yaml", MODEL_FLAG, MODEL_FLAG.replace("<engine_name>", "x")),
        ".command.3 = '--load-model=103', found '--load-model=x'",
    ),
    "a flag again": (
        ("triton.yaml", MODEL_FLAG, f"{MODEL_FLAG}      - --load-model=x\n"),
        ".command = no second entry for what the bundle decides, found '--load-model=x'",
    ),
    "a flag again with one dash": (
        ("triton.yaml", MODEL_FLAG, f"{MODEL_FLAG}      - -load-model=x\n"),
        ".command = no second entry",
    ),
    "a flag again as its negation": (
        (
            "tensorflow.yaml",
            "      - --enable_model_warmup\n",
            "      - --enable_model_warmup\n      - --noenable_model_warmup\n",
        ),
        ".command = no second entry",
    ),
    "a flag with a value of its own": (
        (
            "tensorflow.yaml",
            "      - --enable_model_warmup\n",
            '      - --enable_model_warmup\n      - "false"\n',
        ),
        ".command = '--enable_model_warmup', found nothing of it",
    ),
    "no command": (("triton.yaml", "    command:\n", "    x-command:\n"), ".command = "),
    "another entry point": (key("entrypoint: [sh]"), ".entrypoint = nothing"),
    "another source of the model": (
        ("triton.yaml", MOUNT, MOUNT.replace("models/<model_id>:/", "models/x:/")),
        ".volumes.0 = '../model-serving/model-download/models/103:/models:ro', found ",
    ),
    "another target of the model": (
        ("triton.yaml", MOUNT, MOUNT.replace(":/models:", ":/x:")),
        ".volumes.0 = ",
    ),
    "another source in the long form": (
        (
            "triton.yaml",
            MOUNT,
            "      - type: bind\n        source: ../x\n        target: /models\n",
        ),
        ".volumes.0 = ",
    ),
    "a volume at the model": (
        ("triton.yaml", MOUNT, f"{MOUNT}      - /models\n"),
        ".volumes = no second entry",
    ),
    "a file system in memory at the model": (
        key("tmpfs: '/models:size=1g'"),
        ".volumes = no second entry for what the bundle decides, found 'tmpfs /models:size=1g'",
    ),
    "a secret at a file of the bundle": (
        key("secrets: [{source: x, target: /etc/router/router.sh}]", name="router.yaml"),
        ".volumes = no second entry",
    ),
    "another label of the version": (
        ("triton.yaml", '      bundle.model: "<model_id>"', '      bundle.model: "1"'),
        ".labels.bundle.model = ",
    ),
    "a label twice in a list": (
        ("triton.yaml", LABELS, LABELS_AS_LIST + "      - team=other\n"),
        ".labels = {'bundle.model': ",
    ),
    "no label of the settings": (
        ("labels.yaml", "<label_value:{{ label }}>", "x"),
        ".labels.team = 'vision', found 'x'",
    ),
    "another limit": (
        ("resources.yaml", "${SERVING_<variable>_MEM_LIMIT:-<mem_limit>}", "4g"),
        ".deploy.resources.limits.memory = ",
    ),
    "a second limit": (key("mem_limit: 4g"), ".mem_limit = nothing, found '4g'"),
    "another number of GPUs": (
        ("resources.yaml", "count: {{ gpu }}", "count: 7"),
        ".devices = [{'capabilities': ['gpu'], 'count': 2}], found ",
    ),
    "no number of GPUs": (("resources.yaml", COUNT, ""), ".devices = "),
    "one GPU instead of all": (
        ("resources.yaml", COMMENTED_GPUS, ALL_GPUS.replace("count: all", "count: 1")),
        ".devices = [{'capabilities': ['gpu'], 'count': 'all'}] or no request, found ",
    ),
    "some GPUs and all": (key("gpus: all"), ".devices = "),
    "GPUs of a model without": (
        (
            "resources.yaml",
            "{% if gpu",
            (
                "{% if not gpu and not devices %}\n          devices: [{driver: nvidia}]\n{% endif %}\n"
                "{% if gpu"
            ),
        ),
        ".devices = no request for a GPU, found [{'driver': 'nvidia'}]",
    ),
    "GPUs of the short key of a model without": (
        ("triton.yaml", RUNTIME, "{% if not gpu and not devices %}\n    gpus: 1\n{% endif %}\n"),
        ".devices = no request for a GPU, found [{'capabilities': ['gpu'], 'count': 1}]",
    ),
    "GPUs by CDI of a model without": (
        (
            "triton.yaml",
            RUNTIME,
            "{% if not gpu and not devices %}\n    devices:\n      - nvidia.com/gpu=0\n{% endif %}\n",
        ),
        ".devices = no request for a GPU, found ",
    ),
    "devices that are no list": (
        ("resources.yaml", COMMENTED_GPUS, '{% if gpu == "all" %}\n          devices: all\n'),
        ".devices = ",
    ),
    "another device": (
        ("resources.yaml", '"<device:{{ device }}>"', '"9"'),
        ".devices = [{'capabilities': ['gpu'], 'device_ids': ['0', '1']}], found ",
    ),
    "a request without its capability": (
        (
            "resources.yaml",
            f"            - capabilities: [gpu]\n{COUNT}",
            f"            - driver: nvidia\n{COUNT}",
        ),
        ".devices = ",
    ),
    "another network": (
        ("triton.yaml", "      - <network>\n", "      - other\n"),
        ".networks.0 = ",
    ),
    "the host's network": (key("network_mode: host"), ".network_mode = nothing"),
    "no health check": (
        ("triton.yaml", f"      test: {READY_TEST}\n", "      disable: true\n"),
        ".healthcheck.test = ",
    ),
    "a health check that is off": (("triton.yaml", READY_TEST, '["NONE"]'), ".healthcheck.test = "),
    "a health check of nothing": (
        ("triton.yaml", READY_TEST, '["CMD", "true", "8000"]'),
        ".healthcheck.test = ",
    ),
    "a health check of another port": (
        ("triton.yaml", READY_TEST, '["CMD", "curl", "http://127.0.0.1:80/"]'),
        ".healthcheck.test = ",
    ),
    "a health check that cannot fail": (
        ("triton.yaml", READY_TEST, '"curl http://127.0.0.1:8000/ || exit 0"'),
        ".healthcheck.test = ",
    ),
    "a health check of numbers": (
        ("triton.yaml", READY_TEST, '["CMD", 8000]'),
        ".healthcheck.test = ",
    ),
    "a download that runs for ever": (
        ("model_download.yaml", 'restart: "no"', "restart: always"),
        "model_download.restart = 'no' or on-failure",
    ),
    "another port of the proxy": (("proxy.yaml", ":8000", ":9000"), ".ports.0 = "),
    "no port of the proxy": (("proxy.yaml", "    ports:\n", "    expose:\n"), ".ports = "),
    "another variable of model_download": (
        ("model_download.yaml", "RCLONE_CONFIG: /dev/null", "RCLONE_CONFIG: /x"),
        ".environment.RCLONE_CONFIG = ",
    ),
    "no credentials": (
        ("model_download.yaml", "      - ${REL_DIR}/creds/bundle/.env\n", "      - x.env\n"),
        ".env_file.0 = ",
    ),
}


@pytest.mark.parametrize(("change", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_follows_from_the_composition_may_not_change(change, message):
    with pytest.raises(GateFailure) as failure:
        check(change)

    assert failure.value.file == "base/bundle/docker-compose.yaml"
    assert message in str(failure.value)


def test_a_template_with_more_shared_memory_and_limits_of_processes_passes_the_self_test():
    text = BUILT_IN.text("triton.yaml").replace(
        "shm_size: 1g", "shm_size: 8g\n    ulimits:\n      memlock: -1\n      stack: 67108864"
    )

    self_test.run(Customisation(templates=BUILT_IN.overridden_by({"triton.yaml": text})))


def test_templates_for_hosts_without_the_nvidia_runtime_pass_the_self_test():
    names = ("tensorflow.yaml", "triton.yaml")
    texts = {name: BUILT_IN.text(name).replace("    runtime: nvidia\n", "") for name in names}
    resources = BUILT_IN.text("resources.yaml").replace(COMMENTED_GPUS, ALL_GPUS)

    for own in (texts, texts | {"resources.yaml": resources}):
        self_test.run(Customisation(templates=BUILT_IN.overridden_by(own)))


def test_a_free_key_is_decided_if_the_composition_sets_it():
    service = {
        "shm_size": "8g",
        "healthcheck": {"test": ["CMD", "x"], "interval": "30s", "start_period": "600s"},
    }
    own = {"shm_size": "1g", "healthcheck": {"test": ["CMD", "x"], "start_period": "1s"}}

    def paths(*chosen):
        found = difference(decided("s1s", service, chosen), comparable(own), (), may_add=True)
        return found and found[0]

    assert paths() is None
    assert paths("shm_size") == ("shm_size",)
    assert paths("start_period") == ("healthcheck", "start_period")


@pytest.mark.parametrize(
    ("request_", "is_wanted"),
    [
        ({"capabilities": ["gpu"], "count": 2}, True),
        ({"driver": "nvidia", "capabilities": ["gpu", "compute"], "count": 2}, True),
        ({"driver": "nvidia", "capabilities": ["compute"], "count": 2}, False),
        ({"driver": "nvidia", "count": 2}, False),
        ({"capabilities": ["gpu"], "count": 2, "device_ids": ["0", "1"]}, False),
        ({"capabilities": ["gpu"], "device_ids": ["0", "1"]}, False),
        ({"driver": "cdi", "device_ids": ["nvidia.com/gpu=0"]}, False),
    ],
)
def test_a_request_is_for_the_same_gpus_if_their_number_and_kind_are_the_same(request_, is_wanted):
    def deploy(device):
        return {"deploy": {"resources": {"reservations": {"devices": [device]}}}}

    expected = decided("s1s", deploy({"capabilities": ["gpu"], "count": 2}))
    found = difference(expected, comparable(deploy(request_)), (), may_add=True)
    without = {"deploy": {"resources": {"reservations": {}}}}

    assert (found is None) is is_wanted
    # A model without GPUs has none of these requests.
    assert difference(decided("s1s", without), comparable(deploy(request_)), (), may_add=True)


def test_no_free_key_is_decided_for_a_model_that_sets_none():
    assert free_keys_set_by(make_model("1", serving={"gpu": {"count": "all"}})) == frozenset()


@pytest.mark.parametrize("value", [None, 3, "text", [], ["a"]])
def test_what_is_no_service_is_compared_as_it_is(value):
    assert comparable(value) == value


@pytest.mark.parametrize(
    "service",
    [
        {"deploy": None, "volumes": None, "networks": None, "labels": None, "healthcheck": None},
        {"deploy": {"resources": {"reservations": None}}, "volumes": {"a": 1}, "labels": [1, 2]},
        {"deploy": {"resources": {"reservations": {"devices": [[], {"capabilities": [[]]}]}}}},
        {"deploy": {"resources": {"reservations": {"devices": [{"count": [], "device_ids": {}}]}}}},
        {"gpus": [[], {"count": {}}], "devices": {}, "tmpfs": {}, "secrets": 3, "depends_on": []},
        {"volumes": [[], 3, "", ":", "${", {"target": 3}, {"target": "/x", "source": 3}]},
        {"healthcheck": {"test": 3}, "env_file": {"path": []}, "environment": ["A=1", "A=2"]},
    ],
)
def test_malformed_services_differ_and_raise_nothing(service):
    files = Renderer().render(BUNDLE, DEFAULTS, STAMP)
    assert files
    expected = {
        "labels": {"a": "b"},
        "networks": ["n"],
        "volumes": ["./a:/a"],
        "env_file": ["x"],
        "healthcheck": {"test": ["CMD", "curl", "127.0.0.1:80"]},
        "deploy": {"resources": {"reservations": {"devices": [{"capabilities": ["gpu"]}]}}},
    }

    assert difference(decided("s1s", expected), comparable(service), (), may_add=True)


@pytest.mark.parametrize(
    ("serving", "change", "message"),
    [
        ({"shm_size": "8g"}, ("shm_size: <shm_size>", "shm_size: 8192m"), None),
        ({"shm_size": "8g"}, ("shm_size: <shm_size>", "shm_size: 4g"), "shm_size = '8g'"),
        ({"shm_size": "8g"}, ("    shm_size: <shm_size>\n", ""), "shm_size = '8g'"),
        ({"start_period": 600}, ("start_period: <start_period>", "start_period: 10m"), None),
        (
            {"start_period": 600},
            ("start_period: <start_period>", "start_period: 60s"),
            "start_period = '600s'",
        ),
        (
            {"environment": {"A": "$b"}},
            ("    environment:\n", "    environment:\n      C: d\n"),
            None,
        ),
        ({"environment": {"A": "$b"}}, ("<env_value:", "x<env_value:"), "environment.A = '$$b'"),
        (
            {"arguments": ["--xa=$b"]},
            ('      - "<argument:', '      - --c\n      - "<argument:'),
            None,
        ),
        ({"arguments": ["--xa=$b"]}, ("<argument:", "--x<argument:"), "'--xa=$$b'"),
        ({"engine_name": "N"}, ("=<engine_name>", "=<model_id>"), "'--load-model=N'"),
        ({"repository": {"models": ["N"]}}, ("<loaded_model:", "x<loaded_model:"), "load-model=N"),
    ],
)
def test_a_custom_template_keeps_what_the_composition_says_of_one_model(serving, change, message):
    text = BUILT_IN.text("triton.yaml")
    assert change[0] in text
    templates = BUILT_IN.overridden_by({"triton.yaml": text.replace(*change)})
    bundle = make_composition(1).with_model(make_model("103", platform="triton", serving=serving))
    files = Renderer().render(bundle, DEFAULTS, STAMP, templates)

    if message is None:
        gate.check(bundle, DEFAULTS, files, templates.overridden)
        return
    with pytest.raises(GateFailure) as failure:
        gate.check(bundle, DEFAULTS, files, templates.overridden)
    assert message in str(failure.value)


@pytest.mark.parametrize(
    "gpu",
    [
        {"count": "all", "driver": "nvidia"},
        {"count": 2, "driver": "nvidia"},
        {"device_ids": ["nvidia.com/gpu=0"], "driver": "cdi"},
    ],
)
def test_a_custom_template_keeps_the_driver_of_the_gpus(gpu):
    text = BUILT_IN.text("resources.yaml")
    assert "driver: {{ driver }}" in text
    templates = BUILT_IN.overridden_by(
        {"resources.yaml": text.replace("driver: {{ driver }}", "driver: other")}
    )
    bundle = make_composition(1).with_model(
        make_model("103", platform="triton", serving={"gpu": gpu})
    )
    files = Renderer().render(bundle, DEFAULTS, STAMP, templates)

    with pytest.raises(GateFailure, match=r"devices = .*'driver': "):
        gate.check(bundle, DEFAULTS, files, templates.overridden)
