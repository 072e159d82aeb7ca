pub mod gguf_writer;
pub mod models;
