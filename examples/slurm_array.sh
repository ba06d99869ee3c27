#!/bin/bash
#SBATCH --job-name=ccella-sample
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=24G
#SBATCH --time=04:00:00
#SBATCH --requeue
#
# One share of the prompts per task, all into one folder. What an item becomes depends on its seed alone, so the number of
# tasks changes nothing but the time. A task that is killed and requeued goes on where it stopped.
#
#   sbatch examples/slurm_array.sh reports/ runs/synthetic ./runs/model
set -euo pipefail

prompts=${1:?"usage: sbatch slurm_array.sh PROMPTS OUTPUT [MODEL]"}
output=${2:?"usage: sbatch slurm_array.sh PROMPTS OUTPUT [MODEL]"}
model=${3:-ccella-pp/phantom}

# Compute nodes often have no network: weights must be on the shared file system already.
export HF_HUB_OFFLINE=1

srun ccella sample --model "$model" --prompt "$prompts" -o "$output" \
    --shard "${SLURM_ARRAY_TASK_ID}/${SLURM_ARRAY_TASK_COUNT}" --device cuda --resume
