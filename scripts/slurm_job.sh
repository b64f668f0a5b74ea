#!/usr/bin/env bash
# One job or one study as a Slurm job that goes on after its time limit and after preemption:
#   sbatch scripts/slurm_job.sh model=d64 budget.flops=1e13
#   sbatch --gres=gpu:1 --cpus-per-task=8 --time=12:00:00 scripts/slurm_job.sh -m study=NAME
# The words are those of `python -m train`; sbatch is called in the project's folder. Nothing in a
# run's path depends on the job or the time, so a job that is queued again finds its runs.
#
# Slurm sends USR2 before the time limit, and where it is set up so, before a preemption: the runs
# save and this job queues itself again. `scancel JOB` saves as well and is the end. By hand:
# `scancel --batch --signal=USR2 JOB`. Slurm starts a requeued job after about two minutes.
#
#SBATCH --job-name=windtunnel
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=windtunnel-%j.log
# B: to this script. 300 s must be above the time of one step and two checkpoints.
#SBATCH --signal=B:USR2@300

set -uo pipefail

PYTHON=${PYTHON:-.venv/bin/python}
SAVED=75      # EX_TEMPFAIL: the same command continues
TOO_EARLY=140 # 128 + USR2: Python was still starting and had nothing to save
MOST_RESTARTS=3 # after failures of a device; those that a signal asked for are not counted

run="" first_signal="" is_news=""
pass_on() {
  first_signal=${first_signal:-$1}
  is_news=1
  [ -z "$run" ] || kill -s "$1" "$run" 2>/dev/null
}
trap 'pass_on USR2' USR2
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT

"$PYTHON" -m train "$@" &
run=$!
[ -z "$first_signal" ] || kill -s "$first_signal" "$run" 2>/dev/null

while :; do # a signal ends `wait` before the run has ended
  is_news="" code=0
  wait "$run" || code=$?
  [ -n "$is_news" ] || break
done

goes_on=""
case "$first_signal $code" in
"USR2 $SAVED" | "USR2 $TOO_EARLY") goes_on=1 ;;
" $SAVED") [ "${SLURM_RESTART_COUNT:-0}" -lt "$MOST_RESTARTS" ] && goes_on=1 ;;
esac
if [ -n "$goes_on" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
