//! What a pass runs.

use crate::kv::Sequence;

/// Some tokens of one sequence, which has room for them from `start` on.
pub struct Row<'a> {
    pub sequence: &'a mut Sequence,
    pub start: usize,
    pub ids: &'a [u32],
}
