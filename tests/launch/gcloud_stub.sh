# Stands in for gcloud: a slice as files under $CLOUD, a line of $CLOUD/calls for every call.
#   $CLOUD/node         state of the slice, if there is one;   $CLOUD/queue   of its queued resource
#   $CLOUD/runs         what each run does, a line each: an exit code, "preempt" or "wait" (until it is told to stop)
#   $CLOUD/fail-VERB    makes that verb fail with the text in it, once for each line
#   $CLOUD/states       states that the slice goes through at the next looks, a line each, before its own
verb="$3 $4"
short=$4
detail=''
for argument in "$@"; do
  case $argument in
    --command=*tpu_worker.sh\ run*) short='run' ;;
    --command=*tpu_worker.sh\ install*) short='install' ;;
    --command=*tpu_worker.sh\ pack*) short='pack' ;;
    --command=*rm\ -rf\ must_jax*) short='unpack' ;;
    --command=*tpu_worker.sh\ stop*) short='stop' ;;
    *:result.tgz) short='fetch' ;;
    *must_jax.tgz) short='copy' ;;
  esac
done
if [[ $1 == storage ]]; then
  cat "$CLOUD/hierarchical"
  exit
fi
if [[ $short != describe ]]; then
  echo "$short" >>"$CLOUD/calls"
  echo "$*" >>"$CLOUD/lines"
fi
if [[ -e $CLOUD/fail-$short ]]; then
  head -n 1 "$CLOUD/fail-$short" >&2
  sed -i 1d "$CLOUD/fail-$short"
  [[ -s $CLOUD/fail-$short ]] || rm "$CLOUD/fail-$short"
  exit 1
fi
case "$verb $short" in
  *' create')
    [[ $3 == queued-resources ]] && echo WAITING_FOR_RESOURCES >"$CLOUD/queue"
    echo CREATING >"$CLOUD/node"
    ;;
  *' describe')
    if [[ $* == *failedData* ]]; then
      echo "no such accelerator"
      exit
    fi
    if [[ -s $CLOUD/states ]]; then
      head -n 1 "$CLOUD/states"
      sed -i 1d "$CLOUD/states"
      exit
    fi
    file=$CLOUD/node
    [[ $3 == queued-resources ]] && file=$CLOUD/queue
    if [[ ! -e $file ]]; then
      echo "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'projects/p/nodes/n' was not found" >&2
      exit 1
    fi
    cat "$file"
    case $(cat "$file") in # the next time it will be there
      CREATING) echo READY >"$file" ;;
      WAITING_FOR_RESOURCES) echo ACTIVE >"$file" ;;
    esac
    ;;
  *' delete') rm -f "$CLOUD/node" "$CLOUD/queue" ;;
  *' run')
    what=$(head -n 1 "$CLOUD/runs")
    sed -i 1d "$CLOUD/runs"
    case $what in
      preempt)
        echo PREEMPTED >"$CLOUD/node"
        [[ ! -e $CLOUD/queue ]] || echo SUSPENDED >"$CLOUD/queue"
        [[ ! -e $CLOUD/on-preempt ]] || source "$CLOUD/on-preempt"
        exit 255
        ;;
      wait)
        until [[ -e $CLOUD/stop ]]; do sleep 0.02; done
        exit 75
        ;;
      *) exit "$what" ;;
    esac
    ;;
  *' stop') touch "$CLOUD/stop" ;;
  *' fetch')
    for argument in "$@"; do [[ $argument != /*/result.tgz ]] || cp "$CLOUD/result.tgz" "$argument"; done
    ;;
esac
