//! The header's parser: bounded, checked, naming field and offset in every error.
