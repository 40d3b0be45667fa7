use std::process::ExitCode;

fn main() -> ExitCode {
    spiked::cli::main()
}
