//! All cells of the harness, for `cargo test`.

fn main() -> std::process::ExitCode {
    harness::main()
}
