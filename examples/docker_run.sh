#!/bin/sh
# Builds the image and samples an exam from a report; the results belong to the user who ran this.
#   examples/docker_run.sh examples/report.txt demo
set -eu

report=${1:?"usage: docker_run.sh REPORT OUTPUT"}
output=${2:?"usage: docker_run.sh REPORT OUTPUT"}
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$output"

docker build --quiet --tag ccella "$here"
# --network none: once the image is built, nothing is fetched and nothing leaves the machine.
docker run --rm --network none --read-only --tmpfs /tmp --cap-drop all --user "$(id -u):$(id -g)" \
    --volume "$(cd "$(dirname "$report")" && pwd):/in:ro" \
    --volume "$(cd "$output" && pwd):/out" \
    ccella sample --prompt "/in/$(basename "$report")" -o /out --resume
