#!/usr/bin/env bash
# Retrains the models that ship, bit for bit: retrain.sh DATA [OUT], DATA being the folder that holds tasks/ and the captures.
set -euo pipefail
models=$(cd "$(dirname "$0")" && pwd)
data=${1:?usage: retrain.sh DATA [OUT]}
out=${2:-$models}
spiked=${SPIKED:-spiked}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
# Exit code 1: a capture is cut or a labelled stream is missing, as for some of these captures.
train() { "$spiked" train --quiet --captures "$data" "$@" || { status=$?; [ "$status" = 1 ]; }; }
# Captures without a stated licence calibrate only; those with one are trained on.
awk -F, 'NR == FNR { licensed[$1]; next } FNR == 1 || !($1 in licensed)' \
  "$data"/tasks/wild-licensed.csv "$data"/tasks/wild.csv > "$work/wild.csv"
train --labels "$data"/tasks/{ndpi,protocol-train,protocol-test,wild-licensed}.csv --rename "$models/protocols.names.csv" --min-streams 5 \
  --reference "$work/wild.csv" --seed 1 --out "$out/protocols.safetensors"
train --labels "$data"/tasks/{device-train,device-test}.csv --payload 32 --seed 1 --out "$out/devices.safetensors"
