#!/usr/bin/env bash
# Writes the pinned requirements anew from pyproject.toml, for Python 3.11 on Linux (x86-64). It needs uv.
#
#   lock.txt     the newest versions of the day it is written, with hashes; commit it once the tests pass with them
#   tpu.txt      of these what a Cloud TPU needs, and libtpu
#   oldest.txt   the oldest versions that pyproject.toml allows; of packages that it does not name, the newest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compile=(uv pip compile pyproject.toml --quiet --no-header --upgrade --python-version=3.11
  --python-platform=x86_64-manylinux_2_31)
"${compile[@]}" --extra=test --generate-hashes --output-file=requirements/lock.txt
"${compile[@]}" --extra=tpu --generate-hashes --constraints=requirements/lock.txt --output-file=requirements/tpu.txt
"${compile[@]}" --extra=test --no-annotate --resolution=lowest-direct --output-file=requirements/oldest.txt
