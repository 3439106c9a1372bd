#!/bin/bash
# A cohort in 40 jobs, each a part of it: sbatch deploy/slurm_array.sh
# Run again after a failure, it does what is not done yet.
#SBATCH --job-name=wsi
#SBATCH --array=1-40
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --output=wsi-%A-%a.log
set -euo pipefail

: "${COHORT:=manifests/liver.csv}" "${SLIDES:=slides}" "${RUN:=runs/liver}"
SHARD="${SLURM_ARRAY_TASK_ID}/${SLURM_ARRAY_TASK_COUNT}"

wsi tile "$COHORT" --slides "$SLIDES" --run "$RUN" --workers "$SLURM_CPUS_PER_TASK" --shard "$SHARD"
wsi extract "$RUN" --shard "$SHARD" # on nodes with GPUs, a job of its own: --gres=gpu:1
