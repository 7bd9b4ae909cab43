#!/usr/bin/env bash
# Prints the workdir of a must_jax command: its --workdir, else runs/<name of the config file>.
#
#   launch/workdir.sh python -m must_jax.main --config=configs/student.py      runs/student
set -euo pipefail

workdir='' config='' previous=''
for argument in "$@"; do
  case $previous in
    --workdir) workdir=$argument ;;
    --config) config=$argument ;;
  esac
  case $argument in
    --workdir=*) workdir=${argument#*=} ;;
    --config=*) config=${argument#*=} ;;
  esac
  previous=$argument
done
if [[ -z $workdir && -z $config ]]; then
  echo "error: the command has neither --workdir=FOLDER nor --config=FILE: $*" >&2
  exit 2
fi
config=${config##*/}
echo "${workdir:-runs/${config%.py}}"
