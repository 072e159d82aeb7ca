//! Sorting by a comparison that may fail: a stable merge, so that a failure ends it at once and inconsistent orders
//! (NaN) do no harm.

use super::fault::Result;
use super::meter::Rt;

/// Sorts so that `less(a, b)` comes first; equals keep their order.
pub(super) fn by<T: Clone>(
    rt: &Rt,
    items: &mut [T],
    mut less: impl FnMut(&T, &T) -> Result<bool>,
) -> Result<()> {
    let mut from: Vec<T> = rt.list(items.len())?;
    from.extend_from_slice(items);
    let mut width = 1;
    while width < from.len() {
        let mut to: Vec<T> = rt.list(from.len())?;
        for pair in from.chunks(2 * width) {
            let (mut left, mut right) = pair.split_at(width.min(pair.len()));
            while let (Some(a), Some(b)) = (left.first(), right.first()) {
                if less(b, a)? {
                    to.push(b.clone());
                    right = &right[1..];
                } else {
                    to.push(a.clone());
                    left = &left[1..];
                }
            }
            to.extend_from_slice(left);
            to.extend_from_slice(right);
        }
        from = to;
        width *= 2;
    }
    items.clone_from_slice(&from);
    Ok(())
}
