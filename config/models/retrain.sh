#!/usr/bin/env bash
# Retrains the models that ship, bit for bit: retrain.sh DATA [OUT], DATA being the folder that holds tasks/ and the captures.
set -euo pipefail
models=$(cd "$(dirname "$0")" && pwd)
data=${1:?usage: retrain.sh DATA [OUT]}
out=${2:-$models}
spiked=${SPIKED:-spiked}
mkdir -p "$out"
status=0
# Exit code 1 says that a capture is cut or a labelled stream is missing, which holds for some of these captures.
train() { "$spiked" train --quiet --captures "$data" "$@" || { status=$?; [ "$status" = 1 ]; }; }
train --labels "$data"/tasks/{ndpi,protocol-train,protocol-test}.csv --rename "$models/protocols.names.csv" --min-streams 5 \
  --seed 1 --out "$out/protocols.safetensors"
train --labels "$data"/tasks/{device-train,device-test}.csv --payload 32 --seed 1 --out "$out/devices.safetensors"
