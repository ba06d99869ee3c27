#!/usr/bin/env bash
# Trains the bundled model ccella-pp/phantom from nothing: phantoms, autoencoder, text encoder, latents, denoiser.
# Every step resumes, so the script can be stopped and run again. The recipe's numbers stand in the model's card.
# Prints the seconds that each step took in this run.
#
#   bench/train_bundled.sh [WORK]      (default runs/bundled; `CCELLA` names the command, default .venv/bin/ccella)
#   COUNT=1000 STEPS=2500 bench/train_bundled.sh      a smaller run: so many exams and a third more, so many steps of
#                                      the denoiser; AUTOENCODER_STEPS and TEXT_STEPS likewise
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-runs/bundled}
ccella=${CCELLA:-.venv/bin/ccella}
template=ccella-pp/phantom
times=()

step() {  # step NAME ARGUMENTS...: a ccella command, timed
  local name=$1 start=$SECONDS
  shift
  "$ccella" "$@"
  times+=("$name: $((SECONDS - start)) s")
}

# Training exams: institution 1, seed 0. Tests and benchmarks use other seeds. Lesions are made as frequent as not, since a
# denoiser learns nothing about lesions from exams without one.
count=${COUNT:-9000}
step phantoms phantom -n "$count" --seed 0 --institution 1 --prevalence 0.6 -o "$work/phantoms"
# A third more with lesions in all sectors alike: those in rare places are told apart last.
step "phantoms with lesions in all sectors" \
  phantom -n "$((count / 3))" --seed 500 --institution 1 --prevalence 0.9 --even-places -o "$work/phantoms"
# Tests use phantoms of their own, so all of these may be trained on.
step autoencoder train autoencoder "$work/phantoms" --model "$template" --split none -o "$work/model" --resume \
  ${AUTOENCODER_STEPS:+--steps "$AUTOENCODER_STEPS"}
step "text encoder" train text-encoder -o "$work/model" --resume \
  ${TEXT_STEPS:+--steps "$TEXT_STEPS" --set "late_steps=$((TEXT_STEPS / 2))"}
step latents encode "$work/phantoms" --model "$work/model" -o "$work/latents" --split none --resume
# The loss weighs the lesions' places more: the options stand in the card, the masks came with the phantoms.
step denoiser train denoiser "$work/latents" --model "$work/model" -o "$work/model" --resume \
  --set "regions=$work/phantoms/masks" ${STEPS:+--steps "$STEPS"}
printf '%s\n' "${times[@]}"
echo "The trained model lies in $work/model."
