pub(super) use super::scalar::Scalar as Avx2;
