#!/usr/bin/env bash
# What tpu_vm.sh does on every worker of a slice.
#
#   tpu_worker.sh install STORAGE    mounts the storage, installs Python and the pinned packages, unless they are there
#   tpu_worker.sh run COMMAND...     stops what runs, then runs the command; exit codes of once.sh
#   tpu_worker.sh stop               stops what runs, with its state saved
#   tpu_worker.sh pack COMMAND...    ~/result.tgz: the command's workdir without checkpoints and label columns
set -euo pipefail
code=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mount=${MUST_JAX_MOUNT:-/mnt/must_jax}
running=$HOME/must_jax.pid

mount_storage() {
  if mountpoint -q "$mount"; then return; fi
  sudo mkdir -p "$mount"
  if [[ $1 == gs://* ]]; then
    if ! command -v gcsfuse >/dev/null; then
      echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
      curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
      sudo apt-get update -qq && sudo apt-get install -qq -y gcsfuse
    fi
    sudo chown "$(id -u)" "$mount"
    gcsfuse --implicit-dirs "${1#gs://}" "$mount"
  else
    command -v mount.nfs >/dev/null || { sudo apt-get update -qq && sudo apt-get install -qq -y nfs-common; }
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

# Whether it runs, and is no other process that has got its number since.
is_ours() { grep -qz once.sh "/proc/$1/cmdline" 2>/dev/null; }

stop() {
  local process
  process=$(cat "$running" 2>/dev/null) || return 0
  if is_ours "$process"; then
    kill -TERM "$process" 2>/dev/null || true
    for ((look = 0; look < 1500; look++)); do # five minutes
      is_ours "$process" || break
      sleep 0.2
    done
    pkill -KILL -P "$process" || true
  fi
  rm -f "$running"
}

cd "$code"
verb=${1:-}
shift || true
case $verb in
  install) install "$1" ;;
  run)
    stop
    echo $$ >"$running"
    export PATH=$HOME/venv/bin:$PATH
    exec launch/once.sh "$@"
    ;;
  stop) stop ;;
  pack) tar -czf "$HOME/result.tgz" --exclude=checkpoints --exclude=columns -C "$(launch/workdir.sh "$@")" . ;;
  *)
    echo "error: tpu_worker.sh has install, run, stop and pack, not '$verb'" >&2
    exit 2
    ;;
esac
