#!/usr/bin/env bash
# Runs a must_jax command once. Its exit code tells every launcher what to do next:
#
#   0    finished
#   2    a mistake in the command, which a restart cannot mend
#   75   stopped by SIGTERM with its state saved: the same command continues
#   any other: it crashed; the same command continues from its last checkpoint
#
#   launch/once.sh python -m must_jax.main --config=configs/student.py
set -euo pipefail

if (($# == 0)); then
  echo "error: the command is missing; write launch/once.sh python -m must_jax.main --config=FILE" >&2
  exit 2
fi
export MUST_JAX_PREEMPTED_CODE=75 # without it must_jax ends with 0 when it was preempted
exec "$@"
