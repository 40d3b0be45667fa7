#!/usr/bin/env bash
# Compiles only this project's crates with coverage instrumentation, as RUSTC_WRAPPER: libFuzzer then counts the edges of our parsers, not
# those of decompressors and JSON readers.
#   cd fuzz && RUSTC_WRAPPER=$PWD/instrument.sh RUSTFLAGS='--cfg fuzzing -Cdebug-assertions -Ccodegen-units=16 -Zsanitizer=address' \
#     cargo +nightly build --release --target x86_64-unknown-linux-gnu --bin captures
rustc=$1
shift
case " $* " in
  *' --crate-name spiked '* | *' --crate-name spiked_fuzz '* | *'fuzz_targets/'*)
    set -- "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-{level=4,inline-8bit-counters,pc-table,trace-compares,stack-depth}
    ;;
esac
exec "$rustc" "$@"
