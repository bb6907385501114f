#!/usr/bin/env bash
# TPU=NAME ZONE=ZONE launch/clusters/tpu_vm.sh --config=configs/quickstart.py --workdir=/mnt/runs/0
#
# Copies this checkout to every host of a Cloud TPU VM, installs it there, and trains on all of them
# as one run. The work directory has to be on a disk that all hosts share, such as Filestore. Create
# the machine before, and delete it afterwards:
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-32 \
#       --version=v2-alpha-tpuv5-lite --spot
#   gcloud compute tpus tpu-vm delete NAME --zone=ZONE
# The same command resumes from the last checkpoint, on the same machine or another.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${TPU:?the name of the TPU VM}" "${ZONE:?its zone}"
on_all() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }

copy="$(mktemp -d)/lm_jax.tar.gz"
git archive --format=tar.gz --output="$copy" HEAD
gcloud compute tpus tpu-vm scp "$copy" "$TPU:lm_jax.tar.gz" --zone="$ZONE" --worker=all
on_all "mkdir -p lm_jax && tar -xzf lm_jax.tar.gz -C lm_jax && cd lm_jax &&
  (test -x .venv/bin/python || python3 -m venv .venv) && .venv/bin/python -m pip install -q -e '.[tpu]'"
on_all "cd lm_jax && exec .venv/bin/python -m launch.train $(printf '%q ' "$@")"
