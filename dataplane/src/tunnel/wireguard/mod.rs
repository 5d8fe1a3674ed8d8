pub mod allowed;
