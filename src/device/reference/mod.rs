//! The reference device: every op in plain f32, from its definition.
