#!/usr/bin/env bash
# What tpu_vm.sh does on every worker of a slice.
#
#   tpu_worker.sh install STORAGE         mounts the storage, installs Python and the pinned packages, unless they are there
#   tpu_worker.sh run LAUNCH COMMAND...   stops what runs, starts the command and follows it; exit codes of once.sh.
#                                         The command outlives a lost connection: the same LAUNCH, a name, finds it again
#   tpu_worker.sh stop                    stops what runs, with its state saved
#   tpu_worker.sh pack COMMAND...         ~/result.tgz: the command's workdir without checkpoints and label columns
set -euo pipefail
script=$(realpath "${BASH_SOURCE[0]}")
code=$(dirname "$(dirname "$script")")
mount=${MUST_JAX_MOUNT:-/mnt/must_jax}
launches=$HOME/must_jax_launches # a folder each: process (its id), log, code (once it has ended)

# On a fresh machine unattended-upgrades may hold the locks; apt-get update does not wait for them by itself.
apt_install() {
  for ((try = 0; try < 20; try++)); do
    if sudo apt-get update -qq && sudo apt-get -o DPkg::Lock::Timeout=300 install -qq -y "$1"; then return; fi
    sleep 15
  done
  return 1
}

mount_storage() {
  if mountpoint -q "$mount"; then return; fi
  sudo mkdir -p "$mount"
  if [[ $1 == gs://* ]]; then
    if ! command -v gcsfuse >/dev/null; then
      echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
      curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
      apt_install gcsfuse
    fi
    sudo chown "$(id -u)" "$mount"
    gcsfuse --implicit-dirs "${1#gs://}" "$mount"
  else
    command -v mount.nfs >/dev/null || apt_install nfs-common
    sudo mount -t nfs -o hard "$1" "$mount"
    [[ -w $mount ]] || sudo chown "$(id -u)" "$mount"
  fi
}

install() {
  mount_storage "$1"
  mkdir -p "$mount/runs" "$mount/data"
  ln -sfn "$mount/runs" "$code/runs"
  ln -sfn "$mount/data" "$code/data"
  # The images have Python 3.10; uv brings the one that the lock was made for.
  python3 -m pip install --quiet --user uv
  export PATH=$HOME/.local/bin:$PATH
  [[ -x $HOME/venv/bin/python ]] || uv venv --quiet --python 3.11 "$HOME/venv"
  export VIRTUAL_ENV=$HOME/venv
  uv pip install --quiet --require-hashes --requirement "$code/requirements/tpu.txt"
  uv pip install --quiet --no-deps --editable "$code"
}

# Whether a launch runs; its process id may belong to another process since.
is_running() {
  process=$(cat "$1/process" 2>/dev/null) && grep -qzxF "${1##*/}" "/proc/$process/cmdline" 2>/dev/null
}

stop() {
  local launch process asked
  for launch in "$launches"/*; do
    is_running "$launch" || continue
    asked=''
    for ((look = 0; look < 1500; look++)); do # five minutes
      is_running "$launch" || continue 2
      if [[ -z $asked ]] && pkill -TERM -P "$process"; then asked=1; fi # at first there may be no child yet
      sleep 0.2
    done
    kill -KILL -- "-$process" || true
  done
}

run() {
  local launch=$launches/$1 lock process lines=20 follow=()
  mkdir -p "$launch"
  exec {lock}>"$launches.lock"
  flock "$lock"
  if [[ ! -e $launch/process ]]; then
    stop
    setsid bash "$script" detached "$@" </dev/null >"$launch/log" 2>&1 {lock}>&- &
    echo $! >"$launch/process"
    lines=+1
  fi
  exec {lock}>&-
  if is_running "$launch"; then follow=(--follow "--pid=$process" --sleep-interval=0.5); fi
  tail --lines="$lines" ${follow[@]+"${follow[@]}"} "$launch/log" || true
  exit "$(cat "$launch/code" 2>/dev/null || echo 137)" # there is none when all of it was killed
}

detached() {
  local launch=$launches/$1 ended=0
  shift
  launch/once.sh "$@" || ended=$?
  echo "$ended" >"$launch/code"
}

cd "$code"
verb=${1:-}
shift || true
case $verb in
  install) install "$1" ;;
  run)
    export PATH=$HOME/venv/bin:$PATH
    export JAX_COMPILATION_CACHE_DIR=$mount/jax_cache # what is compiled outlives the machines
    export MUST_JAX_CACHE_DIR=$mount/must_jax_cache   # and which files were verified
    run "$@"
    ;;
  detached) detached "$@" ;;
  stop) stop ;;
  pack)
    # 1: a file changed while it was read, as those of a running command do.
    tar -czf "$HOME/result.tgz" --exclude=checkpoints --exclude=columns -C "$(launch/workdir.sh "$@")" . || (($? == 1))
    ;;
  *)
    echo "error: tpu_worker.sh has install, run, stop and pack, not '$verb'" >&2
    exit 2
    ;;
esac
