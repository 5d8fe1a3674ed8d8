use anyhow::Result;
#[derive(Debug, clap::Args)]
pub struct Arguments {}
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    Build,
    Run,
}
pub fn main(_: &Arguments) -> Result<bool> {
    Ok(true)
}
pub fn ensure(_: Need) -> Result<()> {
    Ok(())
}
