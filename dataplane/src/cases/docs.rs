//! `docs/config-tests.md`: a guide, and every key from the schema.

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::cases::file::File;
    use crate::config;

    const HEAD: &str = include_str!("guide.md");

    /// `SOFTDPU_WRITE_DOCS=1 cargo test -p softdpu cases::docs` writes it anew.
    #[test]
    fn the_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config-tests.md");
        let page = config::reference::page(HEAD, &config::json_schema_of::<File>());
        if std::env::var_os("SOFTDPU_WRITE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let on_disk = std::fs::read_to_string(path).unwrap_or_default();
        assert!(on_disk == page, "docs/config-tests.md is out of date: see above this test how to write it");
    }
}
