#!/usr/bin/env bash
# Runs a must_jax command once. Its exit code tells every launcher what to do next:
#
#   0    finished
#   2    a mistake in the command, which a restart cannot mend
#   75   stopped with its state saved (the file PREEMPTED in its workdir): the same command continues
#   any other: it crashed; the same command continues from its last checkpoint
#
#   launch/once.sh python -m must_jax.main --config=configs/student.py
#
# SIGTERM and SIGINT are handed on as SIGTERM, upon which must_jax saves and ends.
set -uo pipefail

if (($# == 0)); then
  echo "error: the command is missing; write launch/once.sh python -m must_jax.main --config=FILE" >&2
  exit 2
fi
workdir=$("$(dirname "${BASH_SOURCE[0]}")/workdir.sh" "$@") || exit

child='' signals=0
# shellcheck disable=SC2329 # a trap calls it
hand_on() {
  signals=$((signals + 1))
  [[ -n $child ]] && kill -TERM "$child" 2>/dev/null
}
trap hand_on TERM INT

"$@" &
child=$!
if ((signals)); then kill -TERM "$child" 2>/dev/null; fi # it came before there was a child to hand it to
while :; do
  seen=$signals
  wait "$child"
  code=$?
  if ((seen == signals)); then break; fi # otherwise a signal has ended the wait, not the child
done

if ((code == 0)) && [[ -e $workdir/PREEMPTED ]]; then exit 75; fi
exit "$code"
