#!/usr/bin/env bash
# Retrains the models that ship, bit for bit, and makes the reference of the harm check: retrain.sh DATA [OUT], DATA being the folder that holds tasks/ and the captures.
set -euo pipefail
models=$(cd "$(dirname "$0")" && pwd)
data=$(cd "${1:?usage: retrain.sh DATA [OUT]}" && pwd)
out=${2:-$models}
spiked=${SPIKED:-spiked}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0
# Exit code 1: a capture is cut or a labelled stream is missing, as for some of these captures.
train() { "$spiked" train --quiet "$@" || { status=$?; [ "$status" = 1 ]; }; }
# Captures without a stated licence calibrate only; those with one are trained on.
awk -F, 'NR == FNR { licensed[$1]; next } FNR == 1 || !($1 in licensed)' \
  "$data"/tasks/wild-licensed.csv "$data"/tasks/wild.csv > "$work/wild.csv"
# Protocols: the captures, and the recordings of this project.
fixtures=$(cd "$models/../../fixtures" && pwd)
mkdir "$work/captures"
ln -s "$data"/* "$fixtures/protocols" "$work/captures"
sed '1!s#^#protocols/#' "$fixtures/protocols/labels.csv" > "$work/protocols.csv"
protocols=(--captures "$work/captures" --labels "$data"/tasks/{ndpi,protocol-train,protocol-test,wild-licensed}.csv "$work/protocols.csv"
  --rename "$models/protocols.names.csv" --min-streams 5)
# Without the slots of fields that repeat the payload's length or show the host's system.
train "${protocols[@]}" --mask ip.len --mask tcp.window --reference "$work/wild.csv" --seed 1 --out "$out/protocols.safetensors"
train --captures "$data" --labels "$data"/tasks/{device-train,device-test}.csv --payload 32 --seed 1 --out "$out/devices.safetensors"
# Behaviours: the recordings of this project, the attack task, and streams of ordinary protocols as normal ones.
ln -s "$fixtures/behaviours/train" "$work/captures"
gzip -dc "$fixtures/behaviours/labels.csv.gz" | grep -E '^(capture|train)' > "$work/recordings.csv"
# Captures of scans and tunnels among them are left out, and the streams of tunnels: the streams that these carry are among them.
for task in ndpi protocol-train wild-licensed; do
  awk -F, -v OFS=, '$1 ~ /dns-tunnel-iodine|dns2tcp_tunnel|icmp-tunnel|tcp_scan/ { next }
    FNR > 1 && tolower($7) ~ /^(gtp|teredo|capwap)$/ { next } FNR > 1 { $7 = "normal" } 1' \
    "$data/tasks/$task.csv" > "$work/normal-$task.csv"
done
train --traces --packets 4 --captures "$work/captures" --rename "$models/behaviours.names.csv" --seed 1 --out "$out/behaviours.safetensors" \
  --labels "$work"/{recordings,normal-ndpi,normal-protocol-train,normal-wild-licensed}.csv "$data"/tasks/attack-{train,test}.csv
# The reference of the harm check: up to four streams of each class and fold, of the training streams and of the fixtures (scans, floods).
features() { "$spiked" features --quiet "$@" || { status=$?; [ "$status" = 1 ]; }; }
features "${protocols[@]}" > "$work/task.csv"
features --captures "$fixtures" --labels "$fixtures/labels.csv" > "$work/fixtures.csv"
LC_ALL=C awk -F, -v STREAMS=4 -v PACKETS=8 -f "$models/reference.awk" "$work"/{task,fixtures}.csv | gzip -9n > "$out/reference.csv.gz"
