"""Reads metrics from standard input as Prometheus' own client for Python does, and prints each sample as a line of JSON:
[family, type, name, labels, value]. Samples of which nobody has told the type, or twice the same, fail."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

seen = set()
for family in text_string_to_metric_families(sys.stdin.read()):
    if not family.documentation:
        sys.exit(f"{family.name}: no help")
    for sample in family.samples:
        key = (sample.name, tuple(sorted(sample.labels.items())))
        if family.type not in ("counter", "gauge") or key in seen:
            sys.exit(f"{family.type} {key}")
        seen.add(key)
        print(json.dumps([family.name, family.type, sample.name, sample.labels, sample.value]))
