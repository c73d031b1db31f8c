"""Metrics as Prometheus reads them."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from subprocess import PIPE, Popen

from prometheus_client.parser import text_string_to_metric_families

Scraped = Mapping[str, Mapping[tuple[str, ...], float]]
"""The values by the names of metrics and by their labels, in the order of the labels' names.

Those of a histogram begin with the suffix of their sample's name.
"""


def parse_metrics(text: str) -> Scraped:
    """Parse the exposition format, and require that each sample is there once."""
    values: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith(".")
        samples = values.setdefault(family.name, {})
        for sample in family.samples:
            key = tuple(value for _, value in sorted(sample.labels.items()))
            if family.type == "histogram":
                key = (sample.name.removeprefix(family.name), *key)
            assert key not in samples
            samples[key] = sample.value
    return values


@contextmanager
def serving(*options: str, **environ: str) -> Iterator[tuple[Popen[str], str]]:
    """Run the command with a free port; yield its process and the URL of its metrics."""
    command = [sys.executable, "-m", "worker", "metrics", "--listen", "127.0.0.1:0", *options]
    with Popen(command, env=os.environ | environ, stderr=PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            words = process.stderr.readline().split()
            assert words[:1] == ["Serving"], words + process.stderr.readlines()
            yield process, words[1]
        finally:
            process.kill()
