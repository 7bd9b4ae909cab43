#!/usr/bin/env bash
# Runs one must_jax command in several processes on this machine, and again as long as it is stopped or dies.
#
#   launch/local.sh [--processes=2] [--restarts=10] [--grace=120] [--logs=FOLDER] -- \
#       python -m must_jax.main --config=configs/student.py
#
#   --processes=N    jax processes; each gets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID
#   --restarts=N     how often all are started again when one has died or was preempted
#   --grace=SECONDS  from SIGTERM, upon which they save, to SIGKILL
#   --logs=FOLDER    process-I.log of every process, over all restarts; by default runs/logs/<time>
#
# Process 0 is shown in the terminal. When a process ends with an error, the others are stopped. SIGTERM, Ctrl-C or the
# end of the terminal stops all with their state saved, the second time at once.
#
# Exit code: 0 finished; 2 a mistake in the command; 75 stopped, the same command continues; otherwise that of the
# process that died first, when the restarts are used up.
#
# It needs bash 5.1, and python3 to find a free port.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "local.sh: $*" >&2; }
mistake() {
  echo "error: $*" >&2
  exit 2
}

processes=2 restarts=10 grace=120 logs=runs/logs/$(date +%Y%m%d-%H%M%S)-$$
while (($#)); do
  case $1 in
    --processes=* | --restarts=* | --grace=*)
      [[ ${1#*=} =~ ^[0-9]{1,6}$ ]] || mistake "$1 is no whole number"
      declare "${1:2}"
      ;;
    --logs=*) logs=${1#*=} ;;
    --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --)
      shift
      break
      ;;
    *) mistake "$1 is not a flag of local.sh; see --help, and write -- before the command" ;;
  esac
  shift
done
((processes > 0)) || mistake "--processes=0 runs nothing"
(($#)) || mistake "the command is missing; write -- python -m must_jax.main --config=FILE"
mkdir -p "$logs" || exit

# Under job control every process leads a group of its own: Ctrl-C reaches this script alone, which then decides, and a
# process is killed together with the data workers that it has started.
set -m

declare -A running # process id -> jax process
asked=0 timer=''

stop() {
  ((${#running[@]})) || return
  kill -TERM "${!running[@]}" 2>/dev/null
  if [[ -z $timer ]]; then
    (
      sleep "$grace"
      for process in "${!running[@]}"; do kill -KILL -- "-$process" 2>/dev/null; done
    ) &
    timer=$!
  fi
}

# shellcheck disable=SC2329 # a trap calls it
on_signal() {
  asked=$((asked + 1))
  if ((asked == 1)); then
    say "stopping; a second time stops at once, without saving"
    stop
  else
    for process in "${!running[@]}"; do kill -KILL -- "-$process" 2>/dev/null; done
  fi
}
trap on_signal TERM INT HUP
trap '' PIPE # who reads the output may end before

exec {terminal}> >(
  trap '' TERM INT HUP PIPE
  exec tee -a "$logs/process-0.log"
)
tee=$!

exec {never}<> <(:)

# Runs all processes to their end and sets `outcome` and `culprit`: the first error, or 2 where there is one.
run() {
  local port index process code
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') || exit
  outcome=0 culprit=''
  for ((index = 0; index < processes; index++)); do
    (
      trap - TERM INT HUP PIPE
      export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$processes JAX_PROCESS_ID=$index
      if ((index == 0)); then
        exec "$here/once.sh" "$@" </dev/null >&"$terminal" 2>&1
      else
        exec {terminal}>&-
        exec "$here/once.sh" "$@" </dev/null >>"$logs/process-$index.log" 2>&1
      fi
    ) &
    running[$!]=$index
  done
  if ((asked)); then stop; fi
  while ((${#running[@]})); do
    for process in "${!running[@]}"; do
      if kill -0 "$process" 2>/dev/null; then continue; fi
      wait "$process"
      code=$?
      kill -KILL -- "-$process" 2>/dev/null # what it has left behind
      if ((code && (outcome == 0 || code == 2))); then outcome=$code culprit=${running[$process]}; fi
      unset "running[$process]"
      if ((code)); then stop; fi
    done
    read -r -t 0.1 -u "$never" # a sleep that a signal ends. (`wait -n` misses who ends while a trap runs.)
  done
  if [[ -n $timer ]]; then
    kill -KILL -- "-$timer" 2>/dev/null
    wait "$timer" 2>/dev/null
    timer=''
  fi
}

say "$processes processes, logs in $logs"
for ((restart = 0; ; restart++)); do
  run "$@"
  if ((outcome == 0 || outcome == 2 || asked)); then break; fi
  if ((restart == restarts)); then
    say "process $culprit ended with $outcome; restarts are used up, see $logs"
    break
  fi
  if ((outcome == 75)); then say "preempted"; else say "process $culprit ended with $outcome, see $logs/process-$culprit.log"; fi
  say "all start again ($((restart + 1)) of $restarts)"
done
exec {terminal}>&-
wait "$tee"
exit "$outcome"
