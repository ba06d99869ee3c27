#!/usr/bin/env bash
# Trains ccella/phantom, the bundled model's recipe on the T2-weighted sequence alone: the study's other synthesizer.
# Autoencoder and text encoder are the bundled ones, which see one sequence at a time and texts. Every step resumes.
#
#   bench/train_t2w.sh [WORK [OPTION ...]]     (default runs/t2w; `CCELLA` names the command, default .venv/bin/ccella;
#                                              `PYTHON` likewise; options go to the training of the denoiser)
#   PHANTOMS=... bench/train_t2w.sh            phantoms with their masks that are there already, instead of COUNT
#
# The model of docs/study had 42 minutes of one core without bf16, on the phantoms of `COUNT=1000 bench/train_bundled.sh`:
#   PHANTOMS=... STEPS=600 bench/train_t2w.sh runs/t2w --batch-size 8 --set learning_rate=4e-4 --set ema_decay=0.99 \
#     --set channels_last=true
#
# docs/study/study.toml samples from runs/t2w/model: python bench/study.py docs/study/study.toml -o runs/study-phantom-short
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-runs/t2w}
ccella=${CCELLA:-.venv/bin/ccella}
phantoms=${PHANTOMS:-$work/phantoms}

[ -n "${PHANTOMS:-}" ] || "$ccella" phantom -n "${COUNT:-3000}" --seed 0 --institution 1 --prevalence 0.6 -o "$phantoms"
[ -f "$work/template/card.toml" ] || "${PYTHON:-.venv/bin/python}" bench/t2w_template.py "$work/template"
"$ccella" encode "$phantoms" --model "$work/template" -o "$work/latents" --split none --resume
"$ccella" train denoiser "$work/latents" --model "$work/template" -o "$work/model" --set "regions=$phantoms/masks" --resume \
  ${STEPS:+--steps "$STEPS"} "${@:2}"
echo "The trained model lies in $work/model."
