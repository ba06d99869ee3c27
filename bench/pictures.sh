#!/usr/bin/env bash
# Makes the pictures of README and docs again.
set -euo pipefail
cd "$(dirname "$0")/.."
make demo
cp demo/preview.png docs/demo.png
