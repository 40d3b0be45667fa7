#!/usr/bin/env bash
# Seeds for the fuzz targets, made from the fixtures: writes fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --quiet --test fuzz_replay -- --ignored write_the_seeds
