"""Renders a chart for each line of values on standard input, and prints how long Helm took.

Runs in its own environment, which has the Helm SDK and no package of this project.
"""

import hashlib
import json
import sys
import time

from helm_python import Chart

chart = Chart.load(sys.argv[1])
for line in sys.stdin:
    values = json.loads(line)
    cpu, wall = time.process_time(), time.perf_counter()
    rendered = chart.render(values)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    (text,) = (body for path, body in rendered.items() if path.endswith("compose.yaml"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    print(json.dumps({"cpu": cpu, "wall": wall, "sha256": digest}), flush=True)
