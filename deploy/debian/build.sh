#!/bin/sh
# Builds the .deb into target/debian: sh deploy/debian/build.sh (needs cargo-deb: cargo install --locked cargo-deb)
set -eu
cd "$(dirname "$0")/../.."
cargo build --release --locked --features fleet --quiet
out=target/package
rm -rf "$out"
mkdir -p "$out/man"
target/release/spiked man "$out/man"
# -n: no time stamp, so that the same source gives the same package.
gzip -9n "$out"/man/*.1
for shell in bash zsh fish; do
  target/release/spiked completions "$shell" > "$out/spiked.$shell"
done
cargo deb --no-build --quiet
