//! The `sagamesh` command.

fn main() -> std::process::ExitCode {
    sagamesh_cli::main()
}
