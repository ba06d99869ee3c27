#!/usr/bin/env bash
# Trains a student of the bundled model that samples in four steps, one evaluation of the U-Net each. Every step resumes.
# It is not shipped: with it the package would be larger than 25 MB.
#
#   bench/train_student.sh [WORK]      (default runs/student; `CCELLA` names the command, default .venv/bin/ccella)
#   COUNT=1333 STEPS=450 PHANTOMS=... LATENTS=... bench/train_student.sh      so many exams and steps, and folders that
#                                      are there already: phantoms with their masks, latents by the bundled encoder
#
# Then: python bench/samplers.py -n 32 --guidance-interval 400,999 --stored --student ./WORK/model
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-runs/student}
ccella=${CCELLA:-.venv/bin/ccella}
teacher=ccella-pp/phantom
phantoms=${PHANTOMS:-$work/phantoms}
latents=${LATENTS:-$work/latents}
steps=${STEPS:-1300}

[ -n "${PHANTOMS:-}" ] || "$ccella" phantom -n "${COUNT:-1333}" --seed 0 --institution 1 --prevalence 0.6 -o "$phantoms"
[ -n "${LATENTS:-}" ] || "$ccella" encode "$phantoms" --model "$teacher" -o "$latents" --split none --resume
# Lesions weigh more than in plain distillation, since what the teacher says of them is what its guidance is for; and
# the teacher takes two steps for one of the student's, eight in all, which cost its samples nothing (docs/samplers.md).
"$ccella" train denoiser "$latents" --model "$teacher" --distill -o "$work/model" --steps "$steps" --batch-size 8 --resume \
  --set distill_steps=4 --set distill_substeps=2 --set learning_rate=3e-4 --set warmup_steps=20 --set ema_decay=0.99 \
  --set "regions=$phantoms/masks" --set region_mirror=xyz --set region_weight=200.0 --set region_weight_final=200.0 \
  --set validate_every=0 --set validation_items=16 --set checkpoint_every=50 --set channels_last=true
echo "The student lies in $work/model."
