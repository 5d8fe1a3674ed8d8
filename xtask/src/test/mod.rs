use anyhow::Result;
#[derive(Debug, clap::Args)]
pub struct Arguments {}
pub fn main(_: &Arguments) -> Result<bool> {
    Ok(true)
}
