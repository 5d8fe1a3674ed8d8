use super::{Arguments, report::Report};
pub fn run(_: &Arguments, _: &std::path::Path, _: &mut Report) -> anyhow::Result<()> {
    Ok(())
}
