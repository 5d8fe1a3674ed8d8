//! The `softdpu` command. Everything is in the library.

fn main() -> std::process::ExitCode {
    softdpu::cli::main()
}
