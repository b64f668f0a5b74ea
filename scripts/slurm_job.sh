#!/usr/bin/env bash
# One job or one study as a Slurm job that is requeued at its time limit and after preemption:
#   sbatch scripts/slurm_job.sh model=d64 budget.flops=1e13
#   sbatch --gres=gpu:1 --cpus-per-task=8 --time=12:00:00 scripts/slurm_job.sh -m study=NAME
# The arguments are those of `python -m train`; call sbatch in the project's folder. No run's path
# depends on the job or the time, so a requeued job finds its runs.
#
# Slurm sends USR2 before the time limit and, if configured, before preemption: the runs save and
# this job requeues itself. `scancel JOB` also saves, and ends the job. To requeue by hand:
# `scancel --batch --signal=USR2 JOB`. Slurm starts a requeued job after about two minutes.
#
#SBATCH --job-name=windtunnel
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=windtunnel-%j.log
# B: the signal goes to this script. 300 s must be longer than one step and two checkpoints.
#SBATCH --signal=B:USR2@300

set -uo pipefail

PYTHON=${PYTHON:-.venv/bin/python}
# exit code of a preempted run (EX_TEMPFAIL): the same command continues
SAVED=75
# 128 + USR2: Python was still starting and had nothing to save
TOO_EARLY=140
# limit on requeues after device failures; requeues after a signal do not count
MAX_RESTARTS=3

run="" first_signal="" is_signalled=""
pass_on() {
  first_signal=${first_signal:-$1}
  is_signalled=1
  [ -z "$run" ] || kill -s "$1" "$run" 2>/dev/null
}
trap 'pass_on USR2' USR2
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT

"$PYTHON" -m train "$@" &
run=$!
[ -z "$first_signal" ] || kill -s "$first_signal" "$run" 2>/dev/null

# a signal ends `wait` before the run has ended
while :; do
  is_signalled="" code=0
  wait "$run" || code=$?
  [ -n "$is_signalled" ] || break
done

requeue=""
case "$first_signal $code" in
"USR2 $SAVED" | "USR2 $TOO_EARLY") requeue=1 ;;
" $SAVED") [ "${SLURM_RESTART_COUNT:-0}" -lt "$MAX_RESTARTS" ] && requeue=1 ;;
esac
if [ -n "$requeue" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
