#!/usr/bin/env bash
# A SLURM of two nodes on this machine, to try launch/clusters/train.sbatch. Debian or Ubuntu, root.
#
#   apt-get install -y slurmctld slurmd slurm-client munge
#   launch/clusters/local_slurm.sh start   # then: export SLURM_CONF=/run/local_slurm/slurm.conf
#   launch/clusters/local_slurm.sh check   # trains on both nodes, is stopped, requeued, and ends;
#                                          # what follows goes to launch.train
#   launch/clusters/local_slurm.sh stop
set -euo pipefail
cd "$(dirname "$0")/../.."
home=/run/local_slurm
export SLURM_CONF="$home/slurm.conf"

is_up() { [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 2 ]; }

start() {
  is_up && return
  mkdir -p "$home/state" "$home/lm1" "$home/lm2"
  for node in lm1 lm2; do
    grep -qw "$node" /etc/hosts || echo "127.0.0.1 $node" >>/etc/hosts
  done
  cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/%n
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/%n.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
JobRequeue=1
MpiDefault=none
NodeName=lm1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17001 CPUs=1
NodeName=lm2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17002 CPUs=1
PartitionName=all Nodes=lm[1-2] Default=YES MaxTime=INFINITE State=UP
CONF
  pgrep -x munged >/dev/null || {
    mkdir -p /run/munge && chown munge: /run/munge
    runuser -u munge -- /usr/sbin/munged
  }
  slurmctld -c -f "$SLURM_CONF"
  for node in lm1 lm2; do slurmd -N "$node" -f "$SLURM_CONF"; done
  for _ in $(seq 60); do
    is_up && return
    sleep 1
  done
  sinfo -N -l
  echo "error: the two nodes did not come up; see $home/*.log" >&2
  return 1
}

stop() {
  for name in lm1 lm2 slurmctld; do
    [ -s "$home/$name.pid" ] && kill "$(cat "$home/$name.pid")" || true
  done
}

# Waits until a line of the job's log matches, for five minutes at most.
await() {
  for _ in $(seq 300); do
    grep -q -- "$1" "$log" 2>/dev/null && return
    sleep 1
  done
  cat "$log" >&2
  echo "error: the log never said '$1'" >&2
  return 1
}

check() {
  local runs job
  runs="$(mktemp -d)"
  log="$runs/job.log"
  start
  trap stop EXIT
  job="$(PYTHON="${PYTHON:-$PWD/.venv/bin/python}" JAX_PLATFORMS=cpu sbatch --parsable \
    --nodes=2 --ntasks-per-node=1 --gpus-per-node=0 --output="$log" \
    launch/clusters/train.sbatch --config=configs/quickstart.py --workdir="$runs/run" \
    --config.training.num_steps=60 --config.training.steps_per_call=5 \
    --config.schedule.warmup_steps=10 --config.evaluation.baselines=false "$@")"
  await '^step [0-9]*/60'
  scancel --signal=TERM "$job"
  await 'stopped and saved at step'
  echo "stopped and saved; waiting for SLURM to begin it again"
  await 'resuming from the checkpoint of step'
  await '"validation"'
  grep -h -e 'stopped and saved' -e 'resuming' -e '^step 60/60' "$log"
  echo "SLURM: two nodes trained, stopped, were requeued, resumed, and finished"
}

"$@"
