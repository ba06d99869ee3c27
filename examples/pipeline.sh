#!/usr/bin/env bash
# The whole chain on phantoms, from exams with known truth to a model of one's own and volumes sampled from it.
#   examples/pipeline.sh [FOLDER]
# The numbers here are small so that it ends in some minutes on a laptop; see docs/ for a run worth its name.
set -euo pipefail

run=${1:-runs/pipeline}
mkdir -p "$run"

# Exams with reports, masks and a marksheet, in the layout of PI-CAI.
ccella phantom -n 16 --seed 0 -o "$run/exams"

# Latents of a model's autoencoder; its text encoder reads the reports.
ccella encode "$run/exams" --model ccella-pp/phantom -o "$run/latents" --resume

# A denoiser trained on them. The result is a model folder like any other.
ccella train denoiser "$run/latents" --model ccella-pp/phantom --steps 20 --seed 0 -o "$run/model" --resume

# Sampling from a pipe: every report of the phantoms is a prompt, and the records of `sample` are the input of `decode`.
ccella sample --model "$run/model" --prompt "$run/exams/reports" --latents -o "$run/sampled" --json --resume |
    ccella decode - --model "$run/model" -o "$run/volumes" --json --resume |
    tee "$run/volumes.jsonl" | wc -l
