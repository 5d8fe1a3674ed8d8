//! The dashboards use what there is.
