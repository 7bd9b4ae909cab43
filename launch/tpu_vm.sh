#!/usr/bin/env bash
# Runs a must_jax command on all workers of a Cloud TPU VM slice, until it is through, whatever is preempted.
#
#   launch/tpu_vm.sh run --name=NAME --zone=ZONE --type=v5litepod-16 --storage=10.0.0.2:/share --spot --queued -- \
#       python -m must_jax.main --config=configs/student.py
#
#   run      creates the slice or reuses it, copies this code to it, installs the pinned packages, runs the command; when
#            the slice is preempted, creates it anew and continues; fetches the results; deletes the slice
#   fetch    from the slice, while it is there: the command's workdir without checkpoints and label columns
#   status   of the slice
#   delete   the slice
#
#   --name=NAME        of the slice, and of its queued resource
#   --zone=ZONE        e.g. us-west4-a
#   --project=PROJECT  by default gcloud's own
#   --type=TYPE        e.g. v5litepod-16, v6e-8, v4-32: the chips, hence the price
#   --runtime=VERSION  of the image; by default the one for the type
#   --storage=WHERE    what the workers share and what outlives them: HOST:/SHARE of an NFS server (Filestore), or
#                      gs://BUCKET with hierarchical namespace; runs/ and data/ of the command lie in it
#   --queued           waits for the slice as a queued resource
#   --spot             cheap, and can be taken away at any time
#   --create=FLAG      a further flag for gcloud's create, e.g. --create=--network=mine; can be repeated
#   --restarts=N       how often it may crash (20); preemptions are not counted
#   --poll=SECONDS     between two looks at the slice (30)
#   --patience=SECONDS how long gcloud may fail to tell the state of the slice, once it has been able to (1800)
#   --out=FOLDER       for the results (fetched/NAME)
#   --keep             the slice is not deleted at the end
#   --dry-run          prints the gcloud commands of an undisturbed run
#
# Exit code: 0 finished; 2 a mistake; 75 or 130 stopped, the same command continues; else that of gcloud or the command.
# When it is finished or the restarts are used up, the slice is deleted: what counts lies in the storage. A slice that may
# be left behind is said, with the command that deletes it. See launch/README.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "tpu_vm.sh: $*" >&2; }
mistake() {
  echo "error: $*" >&2
  exit 2
}

name='' zone='' project='' type='' runtime='' storage='' out='' restarts=20 poll=30 patience=1800
queued='' spot='' keep='' dry_run='' create_flags=()
if [[ ${1:-} == --help || $# == 0 ]]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
  exit 0
fi
verb=$1
shift
[[ $verb =~ ^(run|fetch|status|delete)$ ]] || mistake "$verb is none of run, fetch, status, delete; see --help"
while (($#)); do
  case $1 in
    --name=* | --zone=* | --project=* | --type=* | --runtime=* | --storage=* | --out=*) declare "${1:2}" ;;
    --restarts=* | --poll=* | --patience=*)
      [[ ${1#*=} =~ ^[0-9]{1,6}$ ]] || mistake "$1 is no whole number"
      declare "${1:2}"
      ;;
    --create=*) create_flags+=("${1#*=}") ;;
    --queued) queued=1 ;;
    --spot) spot=1 ;;
    --keep) keep=1 ;;
    --dry-run) dry_run=1 ;;
    --)
      shift
      break
      ;;
    *) mistake "$1 is not a flag of tpu_vm.sh; see --help, and write -- before the command" ;;
  esac
  shift
done
[[ -n $name ]] || mistake "--name=NAME is missing"
[[ -n $zone ]] || mistake "--zone=ZONE is missing"
if [[ $verb == run ]]; then
  [[ -n $type ]] || mistake "--type=TYPE is missing, e.g. --type=v5litepod-16"
  [[ $storage == gs://* || $storage == *:/* ]] || mistake "--storage=$storage is neither HOST:/SHARE nor gs://BUCKET"
fi
if [[ $verb == run || $verb == fetch ]]; then "$here/workdir.sh" "$@" >/dev/null || exit; fi
command -v gcloud >/dev/null || [[ -n $dry_run ]] || mistake "gcloud is not installed; see https://cloud.google.com/sdk"
if [[ -z $runtime ]]; then
  case $type in # https://cloud.google.com/tpu/docs/runtimes
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-* | v5e-*) runtime=v2-alpha-tpuv5-lite ;;
    v4-* | v3-* | v2-* | '') runtime=tpu-ubuntu2204-base ;;
    *) mistake "of --type=$type the image is not known; name it with --runtime=VERSION" ;;
  esac
fi

where=("--zone=$zone" ${project:+"--project=$project"})
tpus() { gcloud compute tpus "$@" "${where[@]}"; }
# What changes or costs something is shown, and not done in a dry run.
act() {
  printf '+ gcloud compute tpus' >&2
  printf ' %q' "$@" "${where[@]}" >&2
  echo >&2
  [[ -n $dry_run ]] || tpus "$@"
}
if [[ -n $queued ]]; then
  delete=(queued-resources delete "$name" --force --quiet)
  create=(queued-resources create "$name" "--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime")
else
  delete=(tpu-vm delete "$name" --quiet)
  create=(tpu-vm create "$name" "--accelerator-type=$type" "--version=$runtime")
fi
create+=(${spot:+--spot} ${create_flags[@]+"${create_flags[@]}"})

worker=must_jax/launch/tpu_worker.sh
scratch=$(mktemp -d)
may_cost='' # a slice that this script has created or found
# shellcheck disable=SC2329 # a trap calls it
at_end() {
  local code=$?
  rm -rf "$scratch"
  if [[ -n $may_cost && -z $dry_run ]]; then
    say "the slice $name may still be there and cost money; to delete it: gcloud compute tpus ${delete[*]} ${where[*]}"
  fi
  exit "$code"
}
trap at_end EXIT

# A dead connection is noticed in two minutes.
options=(-oConnectTimeout=15 -oServerAliveInterval=30 -oServerAliveCountMax=4)
ssh=(tpu-vm ssh "$name" "${options[@]/#/--ssh-flag=}")
scp=(tpu-vm scp "${options[@]/#/--scp-flag=}")

# The command runs on the workers: a signal asks them to save, after which it ends there and here.
interrupted=0 following=''
# shellcheck disable=SC2329 # a trap calls it
on_signal() {
  interrupted=$((interrupted + 1))
  if [[ -z $following ]] || ((interrupted > 1)); then exit 130; fi
  say "asking the workers to save and stop; a second time does not wait for them"
  set -m
  tpus "${ssh[@]}" --worker=all --command="bash $worker stop" </dev/null &
  set +m
}
trap on_signal INT TERM

# Prints what gcloud says of a resource, or nothing if there is none. Returns 1 if gcloud cannot tell.
describe() {
  if tpus "$1" describe "$name" "--format=value($2)" 2>"$scratch/error"; then return; fi
  if grep -q NOT_FOUND "$scratch/error"; then return; fi
  cat "$scratch/error" >&2
  return 1
}

# Prints absent, settling, ready, gone (preempted or stopped, until it is deleted) or failed.
state() {
  local text
  if [[ -n $queued ]]; then
    text=$(describe queued-resources state.state) || return
    if [[ $text == ACTIVE ]]; then text=$(describe tpu-vm state) && text=${text:-TERMINATED} || return; fi
  else
    text=$(describe tpu-vm state) || return
  fi
  case $text in
    '') echo absent ;;
    READY) echo ready ;;
    PREEMPTED | TERMINATED | STOPPED | SUSPENDED) echo gone ;;
    FAILED) echo failed ;;
    *) echo settling ;; # on its way, like CREATING and DELETING, or out of sight for a while, like HIDDEN and UNKNOWN
  esac
}

# Sets `now` to the state. At the first look a failure is a mistake, e.g. no login; later ones pass.
now='' existed=''
look() {
  local since=$SECONDS before=$now
  until now=$(state); do
    if [[ -z $before ]] || ((SECONDS - since >= patience)); then exit 1; fi
    say "gcloud cannot tell the state of the slice $name; trying again"
    sleep "$poll"
  done
  if [[ $now == ready || $now == gone ]]; then existed=1; fi
  if [[ $now != absent ]]; then may_cost=1; fi
}

delete_slice() {
  for ((try = 0; try < 3; try++)); do
    if act "${delete[@]}"; then
      may_cost=''
      return
    fi
    sleep "$poll"
  done
  return 1
}

# Looks and acts until the slice is ready. What once existed comes back: then no capacity and the like are waited for.
ensure() {
  local before=''
  if [[ -n $dry_run ]]; then
    act "${create[@]}"
    return
  fi
  while look; [[ $now != ready ]]; do
    if [[ $now != "$before" ]]; then say "the slice $name is $now"; fi
    before=$now
    case $now in
      absent)
        may_cost=1
        act "${create[@]}" || [[ -n $existed ]] || exit 1
        ;;
      failed)
        if [[ -z $existed ]]; then
          say "the queued resource $name has failed: $(describe queued-resources state.failedData.error.message)"
          exit 1
        fi
        delete_slice || true
        ;;
      gone) delete_slice || true ;;
    esac
    sleep "$poll"
  done
  say "the slice $name is there"
}

on_all() { act "${ssh[@]}" --worker=all "--command=$1"; }

install() {
  # Files that git knows or would add: changes that are not committed come along, ignored files do not.
  (
    cd "$here/.." && git ls-files -z --cached --others --exclude-standard |
      while IFS= read -r -d '' file; do if [[ -e $file ]]; then printf '%s\0' "$file"; fi; done |
      tar --null -T - -czf "$scratch/must_jax.tgz"
  ) || return
  act "${scp[@]}" "$scratch/must_jax.tgz" "$name:" --worker=all &&
    on_all "if [ -e $worker ]; then bash $worker stop; fi; rm -rf must_jax; mkdir must_jax && tar -xzf must_jax.tgz -C must_jax" &&
    on_all "bash $worker install $(printf %q "$storage")"
}

# Starts the command, or follows it where this launch has started it. Exit code: the command's; 255 if the connection
# breaks for longer than the ten times that gcloud tries; the command goes on then.
run_command() {
  local code seen
  set -m # a process group of its own, which Ctrl-C does not reach
  on_all "bash $worker run $1 $2" </dev/null &
  following=$!
  set +m
  while :; do
    seen=$interrupted
    code=0
    wait "$following" || code=$?
    if ((seen == interrupted)); then break; fi # otherwise a signal has ended the wait
  done
  following=''
  wait # for what has asked the workers to stop
  return "$code"
}

fetch() {
  out=${out:-fetched/$name}
  act "${ssh[@]}" --worker=0 "--command=bash $worker pack $*" &&
    act "${scp[@]}" "$name:result.tgz" "$scratch/result.tgz" --worker=0 || return
  [[ -z $dry_run ]] || return 0
  mkdir -p "$out" && tar -xzf "$scratch/result.tgz" -C "$out" && say "results are in $out"
}

command=$(printf '%q ' "$@")
case $verb in
  status)
    state
    exit
    ;;
  delete)
    act "${delete[@]}"
    exit
    ;;
  fetch)
    fetch "$command"
    exit
    ;;
esac

if [[ $storage == gs://* && -z $dry_run ]]; then
  hierarchical=$(gcloud storage buckets describe "$storage" "--format=value(hierarchical_namespace.enabled)") || exit
  [[ ${hierarchical,,} == true ]] ||
    mistake "$storage has no hierarchical namespace: a checkpoint is committed by renaming its folder, which it cannot"
fi

crashes=0 launch=''
while :; do
  ensure
  code=0
  if [[ -n $launch ]] || install; then
    launch=${launch:-$(date +%Y%m%d-%H%M%S.%N)-$$}
    run_command "$launch" "$command" || code=$?
  else
    code=1
  fi
  if ((code == 0)); then break; fi
  if ((interrupted)); then exit 130; fi
  if [[ -n $launch ]] && ((code == 2)); then exit 2; fi
  sleep "$poll"
  look
  if [[ $now != ready ]]; then
    say "it ended with $code: the slice is $now; it starts again"
    launch=''
  elif ((code == 75)); then
    say "it was preempted, its state saved; it starts again"
    launch=''
  elif ((crashes == restarts)); then
    say "it ended with $code; restarts are used up"
    break
  else
    crashes=$((crashes + 1))
    say "it ended with $code and starts again ($crashes of $restarts)"
    ((code == 255)) || launch='' # a connection that broke finds the command again
  fi
done

# The storage has all that counts: whatever fails here, the slice is not left to cost.
fetch "$command" || code=$((code ? code : $?))
if [[ -z $keep ]]; then delete_slice || code=$((code ? code : 1)); fi
exit "$code"
